"""Verification: what a measured candidate is really worth, found out no further than needed.

A candidate is evaluated on training samples in random order and dropped as soon as it can no longer
beat the incumbent; a better one is evaluated to the end, so an incumbent's accuracy is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from .oracle import Oracle

_FIRST = 64
"""Samples before the first look: an estimate that the planner can use."""
_CHUNK = 16
"""Samples between looks."""
_SURE = 0.05
"""A sample that was not seen is right with a probability at least so far from 0 and 1."""


@dataclass(frozen=True)
class Verdict:
    """What a race found."""

    accuracy: float
    """Exact where the race went to the end, else an estimate."""
    is_exact: bool
    """Whether every training sample was evaluated."""
    error: float = 0.0
    """Standard error of an estimate."""


class Verifier:
    """Races candidates against the incumbent; each setting runs once.

    Args:
        oracle: what is asked; evaluations are counted there.
        seed: of the order in which samples are looked at.
        races: whether to stop early; otherwise every candidate is evaluated in full.
        confidence: probability that a candidate which is better is not dropped.
    """

    def __init__(self, oracle: Oracle, seed: int, *, races: bool, confidence: float) -> None:
        self._oracle = oracle
        self._races = races
        self._confidence = confidence
        self._random = np.random.default_rng([seed, 4])
        self._verdicts: dict[int, Verdict] = {}

    def __contains__(self, code: int) -> bool:
        """Whether this setting has run."""
        return code in self._verdicts

    def __len__(self) -> int:
        """Return how many settings have run."""
        return len(self._verdicts)

    def verify(self, code: int, incumbent: float) -> Verdict:
        """Return what a setting is worth against an incumbent of this accuracy."""
        if code not in self._verdicts:
            self._oracle.ledger.shots_verify += 1
            self._verdicts[code] = self._race(code, incumbent)
        return self._verdicts[code]

    def _race(self, code: int, incumbent: float) -> Verdict:
        weights = self._oracle.probabilities
        order, is_uniform = self._order()
        right = seen = 0.0
        start, count = 0, len(order)
        while start < count:
            end = count if not self._races else start + (_CHUNK if start else _FIRST)
            chosen = order[start:end]
            start = min(end, count)
            right += float(self._oracle.evaluate(code, chosen) @ weights[chosen])
            seen += float(weights[chosen].sum())
            upper = right + (1.0 - seen)
            if is_uniform:
                upper = min(upper, right / seen + self._slack(start, count))
            if start < count and upper <= incumbent + 1e-12:
                estimate = right / seen
                error = self._error(estimate, weights[order[start:]], 1.0 - seen, start)
                return Verdict(estimate, is_exact=False, error=error)
        return Verdict(min(right, 1.0), is_exact=True)  # sums of p_i may end a bit above

    def _order(self) -> tuple[np.ndarray, bool]:
        """Return the order of the samples: random, or the weightiest first where weights differ."""
        weights = self._oracle.probabilities
        shuffled = self._random.permutation(len(weights))
        if float(np.ptp(weights)) < 1e-15:
            return shuffled, True
        return shuffled[np.argsort(-weights[shuffled], kind="stable")], False

    def _error(
        self, estimate: float, left: Float[ndarray, " n"], weight: float, count: int
    ) -> float:
        """Return the standard error of an accuracy from the first so many samples.

        What the other samples will bring, and how well those seen speak for them.
        """
        chance = min(max(estimate, _SURE), 1.0 - _SURE)
        spread = float(left @ left) + weight**2 / count
        return math.sqrt(chance * (1.0 - chance) * spread)

    def _slack(self, seen: int, count: int) -> float:
        """Return Serfling's bound (1974) on a mean of draws without replacement.

        Every look may err, so each has its part of the error.
        """
        looks = max((count - _FIRST) / _CHUNK, 0.0) + 1.0
        left = 1.0 - (seen - 1) / count
        return math.sqrt(left * math.log(looks / (1.0 - self._confidence)) / (2.0 * seen))
