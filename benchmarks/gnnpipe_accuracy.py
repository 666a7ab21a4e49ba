"""Accuracy of stale training beside full-graph training, on paired seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.engine.loop import Curve
from fivefold_gnnpipe.pipe.config import HistoryConfig
from gnnpipe_case import Case
from gnnpipe_plots import draw_accuracy
from gnnpipe_runs import Row, TrainingRun, train_missing

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""
METHODS = ("plain", "gnnpipe")
"""Full-graph training, and the stale pipeline."""
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
    found = train_missing(runs, "accuracy", "method", _validated, result, out)
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


def _validated(curve: Curve) -> Row:
    points = [point for point in curve.points if point.val is not None]
    return {
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

    0 where the pipeline ends ahead; between two evaluations by interpolation, from the first on.
    """
    score = max(pipe["vals"])
    points = list(zip(plain["epochs"], plain["vals"], strict=True))
    if score <= points[0][1]:
        return float(points[-1][0] - points[0][0])
    for (before, low), (after, high) in pairwise(points):
        if low < score <= high:
            return float(points[-1][0] - (before + (after - before) * (score - low) / (high - low)))
    return 0.0
