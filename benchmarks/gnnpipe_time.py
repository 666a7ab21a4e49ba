"""Seconds an epoch on real processes over a shaped link, and what the planner said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig
from fivefold_gnnpipe._words import Wire
from fivefold_gnnpipe.config import DataConfig, TransportConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.planner import prospect
from gnnpipe_case import Case, session_of
from gnnpipe_link import namespaces_work, timed
from gnnpipe_plots import draw_rates


def measure_time(case: Case, result: Result, out: Path) -> None:
    """Train on real processes over a shaped link, and compare with the planner."""
    torch.set_num_threads(1)
    real = namespaces_work()
    suffix = "" if real else "_simulated"
    result.environment["link"] = "network namespaces" if real else "simulated in one process"
    errors = []
    for size in (2, 4):
        rate = _rate_of_70_percent(case, size, real)
        times = _both(case, size, rate, real)
        ratio = times["graph_parallel"] / times["gnnpipe"]
        name = "epoch_graph_over_pipe" + ("" if size == 2 else f"_{size}") + suffix
        result.figures[name] = ratio
        # Every rank times every way on its own copy of all: four of them take more than 20 GB.
        predicted = _predicted(case, size, rate, real) if size == 2 else {}
        for method, seconds in times.items():
            row: dict[str, Any] = {"part": "time", "method": method, "processes": size}
            row |= {"mbit": rate, "seconds": seconds, "real": real}
            if method in predicted:
                error = abs(predicted[method] / seconds - 1)
                errors.append(error)
                row |= {"predicted": predicted[method], "error": error}
            result.rows.append(row)
            print(row, flush=True)
    result.figures["planner_worst_error" + suffix] = max(errors)
    plain = timed(_case_of(case, "plain", {}), 1, None, 3600)
    result.rows.append(
        {"part": "time", "method": "plain", "processes": 1, "seconds": plain["seconds"]}
    )
    curve = []
    for rate in case.rates:
        times = _both(replace(case, epochs_timed=2), 2, rate, real)
        curve.append((rate, times["graph_parallel"], times["gnnpipe"]))
        result.rows.append({"part": "rates", "processes": 2, "mbit": rate, "real": real, **times})
        print(result.rows[-1], flush=True)
    result.figures["crossing_mbit" + suffix] = _crossing(curve)
    draw_rates(curve, plain["seconds"], out / "rates.png", real=real)


def _case_of(case: Case, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": case.data,
        "model": asdict(case.model),
        "method": method,
        "settings": settings,
        "epochs": case.epochs_timed,
    }


def _both(case: Case, size: int, rate: float, real: bool) -> dict[str, float]:
    """Return the seconds an epoch of both methods at a rate."""
    if not real:
        return _predicted(case, size, rate, real)
    return {
        method: float(timed(_case_of(case, method, settings), size, rate, 7200)["seconds"])
        for method, settings in (("graph_parallel", {}), ("gnnpipe", {"stages": size}))
    }


def _rate_of_70_percent(case: Case, size: int, real: bool) -> float:
    """Return the link on which graph parallelism communicates for 70 % of its epoch."""
    if real:
        free = timed(_case_of(case, "graph_parallel", {}), size, None, 3600)
        compute, sent = free["seconds"] - free["waited"], free["bytes"]
    else:
        data = load_graph(DataConfig(**case.data))
        plan = make_plan(case.model, data.num_features, data.num_classes)
        settings = GraphParallelConfig(ways=size, transport=TransportConfig(kind=Wire.LOOPBACK))
        method = build_method(settings, plan, data, session_of())
        reports = [method.epoch(index) for index in range(3)]
        compute, sent = reports[-1].seconds_compute, reports[-1].bytes_sent
        method.close()
    return float(sent / size * 8 / 1e6 / (compute * 0.7 / 0.3))


def _predicted(case: Case, size: int, rate: float, real: bool) -> dict[str, float]:
    """Return what the planner says of both methods.

    Real processes plan as under torchrun: on the shaped link, whose rate they measure themselves.
    """
    if real:
        seconds = timed(_case_of(case, "plan", {}), size, rate, 7200)
        print(f"the planner measures {seconds['mbit']:.1f} Mbit/s of {rate:.1f}", flush=True)
    else:
        data = load_graph(DataConfig(**case.data))
        plan = make_plan(case.model, data.num_features, data.num_classes)
        found = prospect(plan, data, session_of(), GNNPipeConfig(stages=size), size, rate)
        seconds = {way.name: way.seconds for way in found.ways}
    return {"graph_parallel": seconds["graph parallel"], "gnnpipe": seconds["pipeline"]}


def _crossing(curve: Sequence[tuple[float, float, float]]) -> float | None:
    """Return the rate at which graph parallelism becomes as fast, by interpolation in log rate."""
    for (rate, graph, pipe), (after, next_graph, next_pipe) in pairwise(curve):
        here, there = math.log(graph / pipe), math.log(next_graph / next_pipe)
        if here > 0 >= there:
            share = here / (here - there)
            return float(rate * (after / rate) ** share)
    return None
