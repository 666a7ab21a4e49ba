"""Training runs side by side, one thread each: how well, not how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.loop import Curve, fit
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from gnnpipe_case import session_of

Row = dict[str, Any]
Key = tuple[str, int, int, str]
"""Model, layers, seed, way of training."""
_EVERY = 5
"""Epochs between evaluations."""
SHALLOW = 8
"""Layers up to which the larger learning rate is taken; runs of more take long."""


@dataclass(frozen=True)
class TrainingRun:
    """One model, trained in one way from one seed."""

    data: str
    """Settings of the graph, as JSON."""
    model: str
    layers: int
    hidden: int
    epochs: int
    seed: int
    settings: PlainConfig | GNNPipeConfig


def train_missing(
    runs: Mapping[Key, TrainingRun],
    part: str,
    way: str,
    described: Callable[[Curve], Row],
    result: Result,
    out: Path,
) -> dict[Key, Row]:
    """Return the row of every run; those that the record holds are not run again.

    Args:
        runs: by model, layers, seed and way of training.
        part: of the benchmark, as rows call it.
        way: the name of the way of training in a row.
        described: makes entries of a curve, beside the best scores and the final loss.
        result: takes a row a run, as it ends.
        out: folder of the record.
    """
    names = ("model", "layers", "seed", way)
    rows: list[Row] = [row for row in result.rows if row["part"] == part]
    found: dict[Key, Row] = {
        (row["model"], row["layers"], row["seed"], row[way]): row for row in rows
    }
    missing = {key: run for key, run in runs.items() if key not in found}
    for key, curve in zip(missing, train_all(list(missing.values())), strict=True):
        row: Row = {"part": part, **dict(zip(names, key, strict=True))}
        row |= {"val": curve.best.val, "test": curve.best.test, "best_epoch": curve.best_epoch}
        row |= {"final_loss": curve.points[-1].loss, **described(curve)}
        found[key] = row
        result.rows.append(row)
        result.write(out)
    return found


def train_all(runs: Sequence[TrainingRun]) -> Iterator[Curve]:
    """Yield the curve of every run, in order, as many at a time as there are cores."""
    workers = max(1, min(len(runs), len(os.sched_getaffinity(0))))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(_curve, runs)


@cache
def _graph(settings: str) -> GraphData:
    return load_graph(DataConfig(**json.loads(settings)))


def _curve(run: TrainingRun) -> Curve:
    torch.set_num_threads(1)
    data = _graph(run.data)
    config = ModelConfig(name=run.model, layers=run.layers, hidden=run.hidden)
    plan = make_plan(config, data.num_features, data.num_classes, seed=run.seed)
    rate = 0.02 if run.layers <= SHALLOW else 0.01
    session = session_of(run.epochs, seed=run.seed, lr=rate, eval_every=_EVERY)
    method = build_method(run.settings, plan, data, session)
    outcome = fit(method, data, session.options)
    method.close()
    return outcome.curve
