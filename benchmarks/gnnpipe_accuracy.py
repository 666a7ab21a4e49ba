"""Accuracy of stale training beside full-graph training, on paired seeds."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.loop import Curve, fit
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import HistoryConfig
from gnnpipe_case import Case, session_of
from gnnpipe_plots import draw_accuracy

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


def measure_accuracy(case: Case, result: Result, out: Path) -> None:
    """Train with and without the pipeline on paired seeds."""
    data = load_graph(DataConfig(**case.data))
    uppers, means, slower, curves = [], [], [], {}
    for model, layers, seeds in case.accuracy:
        differences = []
        for seed in range(seeds):
            pair = {}
            for method, settings in _pair(case).items():
                curve = _trained(case, data, model, layers, seed, settings)
                pair[method] = curve
                result.rows.append(
                    {
                        "part": "accuracy",
                        "model": model,
                        "layers": layers,
                        "seed": seed,
                        "method": method,
                        "val": curve.best.val,
                        "test": curve.best.test,
                        "best_epoch": curve.best_epoch,
                        "final_loss": curve.points[-1].loss,
                        "digest": data.digest,
                    }
                )
            curves[model, layers, seed] = pair
            plain, pipe = pair["plain"].best.test, pair["gnnpipe"].best.test
            assert plain is not None
            assert pipe is not None
            differences.append(100 * (pipe - plain))
            slower.append(_epochs_to_95(pair["gnnpipe"], pair["plain"]))
        mean = fmean(differences)
        half = T_95[seeds - 1] * stdev(differences) / seeds**0.5
        means.append(mean)
        uppers.append(mean + half)
        result.rows.append(
            {
                "part": "accuracy_cell",
                "model": model,
                "layers": layers,
                "seeds": seeds,
                "mean_points": mean,
                "low_points": mean - half,
                "high_points": mean + half,
            }
        )
    result.figures["accuracy_worst_difference_points"] = min(uppers)
    result.figures["accuracy_worst_mean_points"] = min(means)
    known = [ratio for ratio in slower if ratio is not None]
    result.figures["epochs_to_95_percent_ratio"] = max(known) if known else None
    draw_accuracy(curves, out / "accuracy.png")


def _pair(case: Case) -> dict[str, Any]:
    history = HistoryConfig(refresh=case.refresh)
    return {"plain": PlainConfig(), "gnnpipe": GNNPipeConfig(stages=2, history=history)}


def _trained(
    case: Case, data: GraphData, model: str, layers: int, seed: int, settings: Any
) -> Curve:
    config = ModelConfig(name=model, layers=layers, hidden=case.accuracy_hidden)
    plan = make_plan(config, data.num_features, data.num_classes, seed=seed)
    rate = 0.02 if layers <= 8 else 0.01
    session = session_of(case.accuracy_epochs, seed=seed, lr=rate, eval_every=5)
    method = build_method(settings, plan, data, session)
    outcome = fit(method, data, session.options)
    method.close()
    return outcome.curve


def _epochs_to_95(pipe: Curve, plain: Curve) -> float | None:
    """Return epochs of the pipeline over those of the full graph to 95 % of its final score."""
    wanted = 0.95 * (plain.last.val or 0.0)
    reached = [
        next((p.epoch for p in curve.points if p.val is not None and p.val >= wanted), None)
        for curve in (pipe, plain)
    ]
    return reached[0] / reached[1] if reached[0] and reached[1] else None
