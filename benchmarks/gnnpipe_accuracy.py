"""Accuracy of stale training beside full-graph training, on paired seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.engine.loop import Curve
from fivefold_gnnpipe.pipe.config import HistoryConfig
from gnnpipe_case import Case
from gnnpipe_plots import draw_accuracy
from gnnpipe_runs import TrainingRun, train_all

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""
_ENOUGH = 0.95
"""Share of the full graph's final validation score that counts as reached."""


def measure_accuracy(case: Case, result: Result, out: Path) -> None:
    """Train with and without the pipeline on paired seeds."""
    pairs: dict[tuple[str, int, int], tuple[Curve, Curve]] = {}
    cells_found, ratios = [], []
    for model, layers, seeds in case.accuracy:
        runs = [run for seed in range(seeds) for run in _pair(case, model, layers, seed)]
        curves = list(train_all(runs))
        result.rows += [_row(run, curve) for run, curve in zip(runs, curves, strict=True)]
        some = list(zip(curves[::2], curves[1::2], strict=True))
        pairs |= {(model, layers, seed): pair for seed, pair in enumerate(some)}
        cells_found.append(_difference(some))
        ratios.append(_ratio_of_epochs(some))
        names = {"part": "accuracy_cell", "model": model, "layers": layers, "seeds": seeds}
        result.rows.append({**names, **cells_found[-1], "epochs_to_95_percent_ratio": ratios[-1]})
        print(result.rows[-1], flush=True)
    figures, known = result.figures, [ratio for ratio in ratios if ratio is not None]
    figures["accuracy_worst_difference_points"] = min(c["high_points"] for c in cells_found)
    figures["accuracy_worst_mean_points"] = min(c["mean_points"] for c in cells_found)
    figures["epochs_to_95_percent_ratio"] = max(known) if len(known) == len(ratios) else None
    draw_accuracy(pairs, out / "accuracy.png")


def _pair(case: Case, model: str, layers: int, seed: int) -> list[TrainingRun]:
    """Return full-graph training and the pipeline from one seed."""
    history = HistoryConfig(refresh=case.refresh)
    return [
        TrainingRun(
            data=json.dumps(case.data),
            model=model,
            layers=layers,
            hidden=case.accuracy_hidden,
            epochs=case.accuracy_epochs,
            seed=seed,
            settings=settings,
        )
        for settings in (PlainConfig(), GNNPipeConfig(stages=2, history=history))
    ]


def _row(run: TrainingRun, curve: Curve) -> dict[str, object]:
    return {
        "part": "accuracy",
        "model": run.model,
        "layers": run.layers,
        "seed": run.seed,
        "method": "plain" if isinstance(run.settings, PlainConfig) else "gnnpipe",
        "val": curve.best.val,
        "test": curve.best.test,
        "best_epoch": curve.best_epoch,
        "final_loss": curve.points[-1].loss,
    }


def _difference(pairs: Sequence[tuple[Curve, Curve]]) -> dict[str, float]:
    """Return the mean paired difference in points of test accuracy, and its 95 % interval."""
    differences = [
        100 * (pipe.best.test - plain.best.test)
        for plain, pipe in pairs
        if pipe.best.test is not None and plain.best.test is not None
    ]
    mean = fmean(differences)
    half = T_95[len(differences) - 1] * stdev(differences) / len(differences) ** 0.5
    return {"mean_points": mean, "low_points": mean - half, "high_points": mean + half}


def _ratio_of_epochs(pairs: Sequence[tuple[Curve, Curve]]) -> float | None:
    """Return mean epochs of the pipeline over those of the full graph; nothing if one is never."""
    wanted = [_ENOUGH * (plain.last.val or 0.0) for plain, _ in pairs]
    plain = [_epochs_to(curve, score) for (curve, _), score in zip(pairs, wanted, strict=True)]
    pipe = [_epochs_to(curve, score) for (_, curve), score in zip(pairs, wanted, strict=True)]
    reached = [epochs for epochs in (*plain, *pipe) if epochs is not None]
    if len(reached) < 2 * len(pairs):
        return None
    return sum(reached[len(pairs) :]) / sum(reached[: len(pairs)])


def _epochs_to(curve: Curve, score: float) -> int | None:
    return next((p.epoch for p in curve.points if p.val is not None and p.val >= score), None)
