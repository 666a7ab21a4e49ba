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
from gnnpipe_runs import TrainingRun, train_all


def measure_staleness(case: Case, result: Result, out: Path) -> None:
    """Train every variant from the same seeds; there is no picture."""
    variants = _variants(case.refresh)
    cells = [
        (model, layers, seeds, name, settings)
        for model, layers, seeds in case.staleness
        for name, settings in variants.items()
    ]
    runs = [
        TrainingRun(
            data=json.dumps(case.data),
            model=model,
            layers=layers,
            hidden=case.accuracy_hidden,
            epochs=case.staleness_epochs,
            seed=seed,
            settings=settings,
        )
        for model, layers, seeds, _, settings in cells
        for seed in range(seeds)
    ]
    curves = train_all(runs)
    for model, layers, seeds, name, _ in cells:
        some = [next(curves) for _ in range(seeds)]
        result.rows.append(
            {
                "part": "staleness",
                "model": model,
                "layers": layers,
                "variant": name,
                "seeds": seeds,
                "val_points": fmean(100 * (curve.best.val or 0.0) for curve in some),
                "test_points": fmean(100 * (curve.best.test or 0.0) for curve in some),
                "final_loss": fmean(curve.points[-1].loss for curve in some),
            }
        )


def _variants(refresh: int) -> dict[str, PlainConfig | GNNPipeConfig]:
    """Return full-graph training, the defaults, and the defaults with one thing changed."""
    history = HistoryConfig(refresh=refresh)
    usual = GNNPipeConfig(stages=2, history=history)
    return {
        "full graph": PlainConfig(),
        "defaults": usual,
        "four times the chunks": replace(usual, chunks=32),
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
