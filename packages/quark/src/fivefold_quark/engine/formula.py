"""The master formula: what k iterations make of a coherent test's scores.

    g_k    = sin^2((2k + 1) theta),   sin^2(theta) = mean score
    P_k(w) = (g_k s(w) / mean + (1 - g_k) (1 - s(w)) / (1 - mean)) / Omega

Exact for any k >= 0: amplification leaves each of the two branches, flag up and flag down, as it
was and only turns their common amplitudes. It holds for every model, data set and test, which
enter through s alone. Source: arXiv 2210.01311, reconstructed; checked against every engine.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from .arrays import Floats


def success(mean: Floats | float, k: int) -> Floats:
    """Return g_k, the probability that the flag is up after k iterations.

    Args:
        mean: mean score over the register, from 0 to 1.
        k: iterations, 0 or more.
    """
    theta = np.arcsin(np.sqrt(np.asarray(mean, dtype=np.float64)))
    flag: Floats = np.asarray(np.sin((2 * k + 1) * theta) ** 2)
    return flag


def share_of(score: Floats, mean: Floats | float, k: int) -> Floats:
    """Return Omega P_k(w): how many times likelier than by a uniform draw a weight is measured.

    Args:
        score: of the weights.
        mean: mean score, strictly between 0 and 1; broadcasts with `score`.
        k: iterations.
    """
    flag = success(mean, k)
    share = flag * score / mean + (1.0 - flag) * (1.0 - score) / (1.0 - mean)
    return np.asarray(share)


def distribution(score: Float[ndarray, " omega"], k: int) -> Float[ndarray, " omega"]:
    """Return P_k(w) over the register; uniform where all scores are 0 or all are 1."""
    mean = float(score.mean())
    if not 0.0 < mean < 1.0:
        return np.full(len(score), 1 / len(score))
    return share_of(score, mean, k) / len(score)


def best_k(mean: float) -> int:
    """Return k* = floor(pi / (4 theta)), or k* - 1 where that succeeds more often (over-rotation).

    Args:
        mean: mean score; 0 and 1 cannot be amplified, k is 0.
    """
    if not 0.0 < mean < 1.0:
        return 0
    top = int(math.pi / (4.0 * math.asin(math.sqrt(mean))))
    near = [k for k in (top - 1, top) if k >= 0]
    return max(near, key=lambda k: float(success(mean, k)))


def exact_k(mean: float) -> int:
    """Return the fewest iterations that a lowered flag can make exact: (2k + 1) theta >= pi / 2.

    Args:
        mean: mean score, strictly between 0 and 1.
    """
    return math.ceil(math.pi / (4.0 * math.asin(math.sqrt(mean))) - 0.5 - 1e-12)
