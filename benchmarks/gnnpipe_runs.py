"""Training runs side by side, one thread each: how well, not how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

import torch
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.loop import Curve, fit
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from gnnpipe_case import session_of

_EVERY = 5
"""Epochs between evaluations."""
_SHALLOW = 8
"""Layers up to which the larger learning rate is taken."""


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
    rate = 0.02 if run.layers <= _SHALLOW else 0.01
    session = session_of(run.epochs, seed=run.seed, lr=rate, eval_every=_EVERY)
    method = build_method(run.settings, plan, data, session)
    outcome = fit(method, data, session.options)
    method.close()
    return outcome.curve
