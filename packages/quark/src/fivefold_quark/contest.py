"""The baselines beside a result: the same problem, each method by its own rule."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fivefold import Run, UserError

from .config import ExhaustiveConfig, ParameterShiftConfig, RandomConfig
from .engine.baselines.exhaustive import Exhaustive
from .engine.baselines.logistic import logistic_regression
from .engine.baselines.parameter_shift import ParameterShift
from .engine.baselines.random_search import RandomSearch
from .engine.optimizer import OptimizationResult, Optimizer
from .engine.problem import Training
from .task_configs import BASELINES, QuantumConfig

_LISTED_BITS = 18
"""Longest register that the comparison enumerates or draws empty."""
_SECONDS = 20.0
"""Most time for gradient training beside a result."""


def contestants(config: QuantumConfig, run: Run, problem: Training) -> Iterator[dict[str, Any]]:
    """Yield a row of each baseline that is wanted, as it is done."""
    wanted = list(config.baselines)
    if wanted == ["auto"]:
        wanted = list(BASELINES) if run.method("optimization").name == "quark" else []
    for name in wanted:
        if name == "logistic_regression":
            yield _logistic(problem)
        elif name == "parameter_shift" or problem.register.num_bits <= _LISTED_BITS:
            try:
                began = time.perf_counter()
                result = _searcher(name, config.seed).optimize(problem)
                yield {**method_row(result, time.perf_counter() - began, problem), "method": name}
            except UserError as error:
                run.note(f"{name} left out: {error.problem}")
        else:
            run.note(f"{name} left out: {problem.register.num_bits} weight bits are too many")


def _searcher(name: str, seed: int) -> Optimizer:
    if name == "random":
        return RandomSearch(RandomConfig(racing=False, seed=seed))
    if name == "random_racing":
        return RandomSearch(RandomConfig(racing=True, seed=seed))
    if name == "exhaustive":
        return Exhaustive(ExhaustiveConfig())
    return ParameterShift(ParameterShiftConfig(restarts=3, seconds=_SECONDS, seed=seed))


def method_row(result: OptimizationResult, seconds: float, problem: Training) -> dict[str, Any]:
    """Return a method's row of the table: what it found and what that cost."""
    spent = result.ledger
    return {
        "method": result.method,
        "train_accuracy": result.train_accuracy,
        "test_accuracy": result.test_accuracy,
        "weights": problem.register.text(result.weights),
        "measurements": spent.measurements,
        "model_queries": spent.model_queries,
        "verification": spent.classical_evals,
        "seconds": seconds,
        "stopped": result.stopped,
        **{name: value for name, value in spent.as_dict().items() if name != "model_queries"},
    }


def _logistic(problem: Training) -> dict[str, Any]:
    found = logistic_regression(problem)
    return {
        "method": "logistic_regression",
        "train_accuracy": found.train_accuracy,
        "test_accuracy": found.test_accuracy,
        "iterations": found.iterations,
        "seconds": found.seconds,
        "stopped": "converged",
    }
