"""Scaling: the edge task with distractors, one optimum among 2^10 to 2^18 weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fivefold.result import Result
from fivefold_quark import Chebyshev
from fivefold_quark.amplify.ladder import DEGREES
from fivefold_quark.amplify.optimizer import QuarkOptimizer
from fivefold_quark.config import BudgetConfig, QuarkConfig
from fivefold_quark.engine.engines.analytic import Analytic
from fivefold_quark.engine.formula import best_k, share_of
from fivefold_quark.engine.problems.edge import edge_with_distractors
from numpy.typing import NDArray

_LARGEST = 4
"""Registers that a slope is fitted over."""
SIDES = ("quark", "quark_with_verification", "known", "random", "random_racing")
_TAUS = tuple(tau / 100.0 for tau in range(50, 100))


def measure_scaling(bits: Sequence[int], seeds: int, result: Result) -> None:
    """Count queries to the optimum on every register, and fit the slopes."""
    means: dict[str, list[float]] = {side: [] for side in SIDES}
    for num_bits in bits:
        row = one_size(num_bits, seeds)
        result.rows.append(row)
        print(row, flush=True)
        for side in SIDES:
            means[side].append(float(row[f"queries_{side}"]))
    last = [2.0**b for b in bits][-_LARGEST:]
    for side in SIDES:
        result.figures[f"slope_{side}"] = slope(last, means[side][-_LARGEST:])


def one_size(num_bits: int, seeds: int) -> dict[str, Any]:
    """Return the mean queries of every side on one register."""
    problem = edge_with_distractors(num_bits, seed=0)
    engine = Analytic(problem)
    accuracies = engine.table.accuracies
    spent = []
    for seed in range(seeds):
        budget = BudgetConfig(shots=1_000_000, model_queries=1e10, seconds=3600.0)
        config = QuarkConfig(seed=seed, budget=budget, block_bits=num_bits)
        found = QuarkOptimizer(config, engine=lambda _: engine).optimize(problem)
        ledger = found.ledger
        best = found.train_accuracy > 1.0 - 1e-12
        spent.append((ledger.measurements, ledger.model_queries, ledger.classical_evals, best))
    values = np.array(spent, dtype=np.float64)
    full, racing = random_queries(accuracies, len(problem.probabilities), 20 * seeds)
    return {
        "omega": 2.0**num_bits,
        "measurements_quark": float(values[:, 0].mean()),
        "queries_quark": float(values[:, 1].mean()),
        "queries_quark_median": float(np.median(values[:, 1])),
        "queries_quark_p95": float(np.percentile(values[:, 1], 95)),
        "queries_quark_with_verification": float((values[:, 1] + values[:, 2]).mean()),
        "success_quark": float(values[:, 3].mean()),
        "queries_known": known_queries(accuracies),
        "queries_random": full,
        "queries_random_racing": racing,
    }


def known_queries(accuracies: NDArray[np.float64]) -> float:
    """Return the fewest expected queries of one filter and one k, chosen knowing all accuracies.

    No planner can: it is what a blind one is measured by.
    """
    levels, counts = np.unique(accuracies, return_counts=True)
    fewest = np.inf
    for degree in DEGREES:
        for tau in _TAUS:
            score = Chebyshev(degree, tau).score(levels)
            mean = float(score @ counts) / accuracies.size
            ks = np.arange(best_k(mean) + 1)
            hits = np.array([float(share_of(score[-1:], mean, int(k))[0]) for k in ks])
            queries = (2 * ks + 1) * degree * accuracies.size / hits
            fewest = min(fewest, float(queries.min()))
    return fewest


def random_queries(
    accuracies: NDArray[np.float64], num_samples: int, orders: int
) -> tuple[float, float]:
    """Return the queries of random search to the optimum: each draw in full, and in a race.

    Draws come in random orders without replacement. A race ends at a candidate's first mistake:
    of N samples in random order, d of them wrong, that takes (N + 1) / (d + 1) on average.
    """
    random = np.random.default_rng(11)
    wrong = np.rint((1.0 - accuracies) * num_samples)
    raced = np.where(wrong > 0, (num_samples + 1) / (wrong + 1), num_samples)
    best = int(accuracies.argmax())
    full, racing = [], []
    for _ in range(orders):
        order = random.permutation(accuracies.size)
        drawn = order[: int(np.flatnonzero(order == best)[0]) + 1]
        full.append(drawn.size * num_samples)
        racing.append(float(raced[drawn].sum()))
    return float(np.mean(full)), float(np.mean(racing))


def slope(sizes: Sequence[float], queries: Sequence[float]) -> float:
    """Return the exponent of a power law, fitted to logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(queries), 1)[0])
