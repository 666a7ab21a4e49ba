"""Blind runs: Quark's planner against random search without replacement, on three tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fivefold.result import Result
from fivefold_quark import Weighting
from fivefold_quark.amplify.optimizer import QuarkOptimizer
from fivefold_quark.config import BudgetConfig, QuarkConfig, RandomConfig, ScheduleConfig
from fivefold_quark.engine.baselines.random_search import RandomSearch
from fivefold_quark.engine.engines.analytic import Analytic
from fivefold_quark.engine.ledger import Ledger
from fivefold_quark.engine.optimizer import Optimizer, Progress
from fivefold_quark.engine.problem import Training
from fivefold_quark.engine.problems.edge import edge8
from fivefold_quark.engine.problems.images import bundled_digits, tiny

EPSILON = 0.02
CONFIDENCE = 0.95
_NEVER = 1.0 - 1e-12
_BUDGET = BudgetConfig(shots=100_000, model_queries=1e9, seconds=600.0)

Factory = Callable[[int], Optimizer]
"""An optimiser of a seed."""


def tasks() -> dict[str, Training]:
    """Return the tasks by name."""
    digits = bundled_digits()
    return {
        "edge8": edge8(),
        "tiny67": tiny(digits, (6, 7)),
        "tiny67_weighted": tiny(digits, (6, 7), weighting=Weighting.MULTIPLICITY),
    }


def measure_blind(seeds: int, result: Result) -> None:
    """Run both sides on every task, judged and by their own rules."""
    for name, problem in tasks().items():
        engine = Analytic(problem)
        accuracies = engine.table.accuracies
        near = float(accuracies.max()) - EPSILON - 1e-9
        print(f"{name}: Omega {accuracies.size}, near-optimal {(accuracies >= near).sum()}")
        for rule in ("judged", "stopped"):
            judged = rule == "judged"
            quark = study(problem, near, seeds, quark_of(engine, judged), judged)
            random = study(problem, near, seeds, random_of(judged), judged)
            racing = study(problem, near, seeds, racing_of(judged), judged)
            sides = (("quark", quark), ("random", random), ("random_racing", racing))
            for side, runs in sides:
                result.rows.append({"task": name, "rule": rule, "method": side, **summary(runs)})
                print(f"  {rule} {side}: {result.rows[-1]}", flush=True)
            record(result, name, rule, quark, random)


def quark_of(engine: Analytic, judged: bool) -> Factory:
    """Return Quark; a judged run does not stop by its own rule."""

    def make(seed: int) -> Optimizer:
        schedule = ScheduleConfig(confidence=_NEVER if judged else CONFIDENCE)
        config = QuarkConfig(schedule=schedule, budget=_BUDGET, epsilon=EPSILON, seed=seed)
        return QuarkOptimizer(config, engine=lambda _: engine)

    return make


def random_of(judged: bool) -> Factory:
    """Return random search that verifies every draw in full."""
    confidence = _NEVER if judged else CONFIDENCE
    return lambda seed: RandomSearch(
        RandomConfig(racing=False, confidence=confidence, budget=_BUDGET, seed=seed)
    )


def racing_of(judged: bool) -> Factory:
    """Return random search that races every draw against the best."""
    confidence = _NEVER if judged else CONFIDENCE
    return lambda seed: RandomSearch(
        RandomConfig(racing=True, confidence=confidence, budget=_BUDGET, seed=seed)
    )


def study(
    problem: Training, near: float, seeds: int, make: Factory, judged: bool
) -> list[tuple[Ledger, bool]]:
    """Run an optimiser once a seed; returns what each spent, and whether it succeeded."""

    def judge(progress: Progress) -> None:
        if judged and progress.incumbent >= near:
            raise KeyboardInterrupt

    runs = []
    for seed in range(seeds):
        found = make(seed).optimize(problem, [judge])
        runs.append((found.ledger, found.train_accuracy >= near))
    return runs


def summary(runs: Sequence[tuple[Ledger, bool]]) -> dict[str, Any]:
    """Return mean, median and 95th percentile of what runs spent, and the success rate."""
    found: dict[str, Any] = {"runs": len(runs), "success": float(np.mean([ok for _, ok in runs]))}
    for name, key in (
        ("measurements", "measurements"),
        ("model_queries", "model_queries"),
        ("verification", "classical_evals"),
    ):
        values = np.array([getattr(ledger, key) for ledger, _ in runs])
        found[f"{name}_mean"] = float(values.mean())
        found[f"{name}_median"] = float(np.median(values))
        found[f"{name}_p95"] = float(np.percentile(values, 95))
    return found


def record(
    result: Result,
    name: str,
    rule: str,
    quark: Sequence[tuple[Ledger, bool]],
    random: Sequence[tuple[Ledger, bool]],
) -> None:
    """Put the ratios of one task and rule into the figures."""
    ours, theirs = summary(quark), summary(random)
    prefix = "measurements" if rule == "judged" else "stopped"
    for part, suffix in (("mean", ""), ("median", "_median"), ("p95", "_p95")):
        key = f"measurements_{part}"
        result.figures[f"{prefix}_random_over_quark_{name}{suffix}"] = theirs[key] / ours[key]
    if rule == "stopped":
        result.figures[f"success_quark_{name}"] = float(ours["success"])
        result.figures[f"success_random_{name}"] = float(theirs["success"])
        return
    result.figures[f"queries_quark_{name}"] = ours["model_queries_mean"]
    result.figures[f"verification_quark_{name}"] = ours["verification_mean"]
    result.figures[f"verification_random_{name}"] = theirs["verification_mean"]
