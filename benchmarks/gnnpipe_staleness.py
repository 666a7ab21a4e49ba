"""What each technique of the source does to accuracy: one setting changed at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.pipe.config import Begin, FirstLayer, HistoryConfig, HistoryDropout
from gnnpipe_case import Case
from gnnpipe_runs import SHALLOW, Row, TrainingRun, train_missing

DEEP = (
    "full graph",
    "defaults",
    "history twice as long",
    "warm start",
    "stale first layer",
    "four times the chunks",
    "crossing gradients once",
)
"""Variants of networks whose runs take long: what could put the pipeline behind there."""


def measure_staleness(case: Case, result: Result, out: Path) -> None:
    """Train every variant from the same seeds; runs that are recorded are not run.

    Args:
        case: models, depths, seeds.
        result: takes a row a run, as it ends, and a row a variant.
        out: folder of the record; there is no picture.
    """
    variants = _variants(case.refresh)
    cells = [
        (model, layers, seeds, name)
        for model, layers, seeds in case.staleness
        for name in (variants if layers <= SHALLOW else DEEP)
    ]
    runs = {
        (model, layers, seed, name): TrainingRun(
            data=json.dumps(case.data),
            model=model,
            layers=layers,
            hidden=case.accuracy_hidden,
            epochs=case.staleness_epochs,
            seed=seed,
            settings=variants[name],
        )
        for model, layers, seeds, name in cells
        for seed in range(seeds)
    }
    found = train_missing(runs, "staleness", "variant", lambda curve: {}, result, out)
    for model, layers, seeds, name in cells:
        some = [found[model, layers, seed, name] for seed in range(seeds)]
        cell: Row = {"part": "staleness_cell", "model": model, "layers": layers}
        cell |= {"variant": name, "seeds": seeds}
        cell |= {what: fmean(row[what] for row in some) for what in ("val", "test", "final_loss")}
        result.rows.append(cell)


def _variants(refresh: int) -> dict[str, PlainConfig | GNNPipeConfig]:
    """Return full-graph training, the defaults, and the defaults with one thing changed."""
    history = HistoryConfig(refresh=refresh)
    usual = GNNPipeConfig(stages=2, history=history)
    return {
        "full graph": PlainConfig(),
        "defaults": usual,
        "four times the chunks": replace(usual, chunks=32),
        "history twice as long": replace(usual, history=replace(history, refresh=2 * refresh)),
        "history of a quarter": replace(
            usual, history=replace(history, refresh=max(1, refresh // 4))
        ),
        "history of one epoch": replace(usual, history=replace(history, refresh=1)),
        "crossing gradients once": replace(usual, cross_gradient=1.0),
        "not shuffled": replace(usual, shuffle=False),
        "warm start": replace(usual, history=replace(history, init=Begin.WARM)),
        "stale first layer": replace(usual, first_layer=FirstLayer.STALE),
        "as the source": replace(
            usual,
            first_layer=FirstLayer.STALE,
            history=replace(history, dropout=HistoryDropout.FROZEN),
        ),
    }
