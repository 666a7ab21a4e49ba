"""Accuracy of stale training beside full-graph training, on paired seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.engine.loop import Curve
from fivefold_gnnpipe.pipe.config import HistoryConfig
from gnnpipe_case import Case
from gnnpipe_plots import draw_accuracy
from gnnpipe_runs import TrainingRun, train_all

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""
METHODS = ("plain", "gnnpipe")
"""Full-graph training, and the stale pipeline."""
Row = dict[str, Any]
Key = tuple[str, int, int, str]
"""Model, layers, seed, method."""
_ENOUGH = 0.95
"""Share of the full graph's final validation score that counts as reached."""


def measure_accuracy(case: Case, result: Result, out: Path) -> None:
    """Train with and without the pipeline on paired seeds; runs that are recorded are not run.

    Args:
        case: models, depths, seeds.
        result: takes a row a run, as it ends, and a row a cell.
        out: folder of the record and the picture.
    """
    cells = [(model, layers, seed) for model, layers, n in case.accuracy for seed in range(n)]
    runs = {(*cell, name): run for cell in cells for name, run in _pair(case, *cell).items()}
    found = {_key(row): row for row in result.rows if row["part"] == "accuracy"}
    missing = {key: run for key, run in runs.items() if key not in found}
    for key, curve in zip(missing, train_all(list(missing.values())), strict=True):
        found[key] = _row(key, curve)
        result.rows.append(found[key])
        result.write(out)
    judged = []
    for model, layers, seeds in case.accuracy:
        pairs = [tuple(found[model, layers, s, name] for name in METHODS) for s in range(seeds)]
        cell: Row = {"part": "accuracy_cell", "model": model, "layers": layers, "seeds": seeds}
        cell |= {**_difference(pairs), "epochs_to_95_percent_ratio": _ratio_of_epochs(pairs)}
        cell["epochs_behind_at_the_end"] = fmean(_epochs_behind(*pair) for pair in pairs)
        judged.append(cell)
    result.rows += judged
    ratios = [cell["epochs_to_95_percent_ratio"] for cell in judged]
    figures = result.figures
    figures["accuracy_worst_difference_points"] = min(cell["high_points"] for cell in judged)
    figures["accuracy_worst_mean_points"] = min(cell["mean_points"] for cell in judged)
    figures["epochs_to_95_percent_ratio"] = None if None in ratios else max(ratios)
    draw_accuracy([found[key] for key in runs], out / "accuracy.png")


def _pair(case: Case, model: str, layers: int, seed: int) -> dict[str, TrainingRun]:
    """Return full-graph training and the pipeline from one seed, by name."""
    stale = GNNPipeConfig(stages=2, history=HistoryConfig(refresh=case.refresh))
    ways: tuple[PlainConfig | GNNPipeConfig, ...] = (PlainConfig(), stale)
    return {
        name: TrainingRun(
            data=json.dumps(case.data),
            model=model,
            layers=layers,
            hidden=case.accuracy_hidden,
            epochs=case.accuracy_epochs,
            seed=seed,
            settings=settings,
        )
        for name, settings in zip(METHODS, ways, strict=True)
    }


def _key(row: Row) -> Key:
    return row["model"], row["layers"], row["seed"], row["method"]


def _row(key: Key, curve: Curve) -> Row:
    model, layers, seed, method = key
    points = [point for point in curve.points if point.val is not None]
    return {
        "part": "accuracy",
        "model": model,
        "layers": layers,
        "seed": seed,
        "method": method,
        "val": curve.best.val,
        "test": curve.best.test,
        "best_epoch": curve.best_epoch,
        "final_loss": curve.points[-1].loss,
        "epochs": [point.epoch for point in points],
        "vals": [point.val for point in points],
    }


def _difference(pairs: Sequence[tuple[Row, ...]]) -> dict[str, float]:
    """Return the mean paired difference in points of test accuracy, and its 95 % interval."""
    differences = [100 * (pipe["test"] - plain["test"]) for plain, pipe in pairs]
    mean = fmean(differences)
    half = T_95[len(differences) - 1] * stdev(differences) / len(differences) ** 0.5
    return {"mean_points": mean, "low_points": mean - half, "high_points": mean + half}


def _ratio_of_epochs(pairs: Sequence[tuple[Row, ...]]) -> float | None:
    """Return mean epochs of the pipeline over those of the full graph; nothing if one is never."""
    reached = [
        [_epochs_to(row, _ENOUGH * plain["vals"][-1]) for row in (plain, pipe)]
        for plain, pipe in pairs
    ]
    plain, pipe = zip(*reached, strict=True)
    return None if None in (*plain, *pipe) else sum(pipe) / sum(plain)


def _epochs_to(row: Row, score: float) -> int | None:
    both = zip(row["epochs"], row["vals"], strict=True)
    return next((epoch for epoch, val in both if val >= score), None)


def _epochs_behind(plain: Row, pipe: Row) -> float:
    """Return how many epochs before the end the full graph validated as the pipeline does there.

    Nothing where the pipeline ends ahead; between two evaluations, by interpolation.
    """
    score = max(pipe["vals"])
    points = list(zip(plain["epochs"], plain["vals"], strict=True))
    for (before, low), (after, high) in pairwise(points):
        if low < score <= high:
            return float(points[-1][0] - (before + (after - before) * (score - low) / (high - low)))
    return 0.0
