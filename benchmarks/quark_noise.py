"""Noise: how fast depolarising errors wash the warm-ups' best weight out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fivefold.result import Result
from fivefold_quark import Chebyshev, CoherentTest, Replicas
from fivefold_quark.config import NoiseConfig
from fivefold_quark.engine.engines.choosing import build_engine
from fivefold_quark.engine.problems.warm_ups import not_and, xor

_TESTS: dict[str, CoherentTest] = {"xor": Replicas(2), "not_and": Chebyshev(3, 0.5)}
"""Two copies bring NOT-AND nothing: its mean score is above one half."""
_K = 1


def measure_noise(errors: Sequence[float], shots: int, result: Result) -> None:
    """Sample the two warm-ups at every error of two-qubit gates."""
    for problem in (xor(), not_and()):
        test = _TESTS[problem.name]
        ideal = build_engine("analytic", problem).run(test, _K).probabilities[_K]
        for error in errors:
            noise = NoiseConfig(depolarizing_1q=error / 10, depolarizing_2q=error)
            engine = build_engine("gates", problem, noise=noise)
            codes = engine.sample(test, _K, shots, np.random.default_rng(12))
            share = float(np.mean(codes == int(ideal.argmax())))
            result.figures[f"noise_{problem.name}_{error:g}"] = share
            row = {
                "task": problem.name,
                "depolarizing_2q": error,
                "p_best": share,
                "p_best_ideal": float(ideal.max()),
                "shots": shots,
            }
            result.rows.append(row)
            print(row, flush=True)
