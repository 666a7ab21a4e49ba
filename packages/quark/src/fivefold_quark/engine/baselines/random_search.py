"""`optimization=random`: uniform draws, verified in full, in a race, or up to a first mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...config import RandomConfig
from ..optimizer import Callback, OptimizationResult
from ..oracle import Oracle
from ..problem import Problem
from ..racing import Verifier
from .finishing import CERTAIN, BestSoFar

_LISTED_BITS = 22
"""Longest register whose codes are shuffled as a list; of longer ones, repeats are left out."""


def build(config: RandomConfig) -> RandomSearch:
    """Return the optimiser that the settings describe."""
    return RandomSearch(config)


class RandomSearch:
    """Draws weights uniformly and keeps the best.

    A draw plays the part of a measurement, and is counted as one. Without replacement the search
    ends after a part `confidence` of all weights; with it, after as many draws as find any one
    weight with that probability.
    """

    def __init__(self, config: RandomConfig) -> None:
        self.config = config

    def optimize(self, problem: Problem, callbacks: Sequence[Callback] = ()) -> OptimizationResult:
        """Search the weights that get most training samples right."""
        config = self.config
        oracle = Oracle(problem, seed=config.seed)
        best = BestSoFar("random", problem, oracle.ledger, callbacks)
        verifier = Verifier(oracle, config.seed, races=config.racing, confidence=0.999)
        stopped = "confidence"
        try:
            for count, code in enumerate(self._draws(oracle), start=1):
                oracle.ledger.shots_weight += 1
                if config.racing_at_first_mistake:
                    accuracy, is_exact = self._to_first_mistake(oracle, code)
                else:
                    verdict = verifier.verify(code, best.accuracy)
                    accuracy, is_exact = verdict.accuracy, verdict.is_exact
                if is_exact or best.accuracy < 0:
                    bits = oracle.register.bits(np.array([code]))[0]
                    best.take(bits, accuracy)
                best.report(count)
                ended = self._ended(best, count)
                if ended:
                    stopped = ended
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        return best.result(stopped)

    def _draws(self, oracle: Oracle) -> Iterator[int]:
        """Yield codes until the search may end by its own rule."""
        random = np.random.default_rng([self.config.seed, 7])
        size = oracle.num_codes
        if self.config.replacement:
            # (1 - 1/Omega)^n = 1 - confidence
            most = int(np.ceil(np.log(1.0 - self.config.confidence) / np.log1p(-1.0 / size)))
            for _ in range(most if size > 1 else 1):
                yield int(oracle.draw(1)[0])
            return
        most = int(np.ceil(self.config.confidence * size))
        if oracle.register.num_bits <= _LISTED_BITS:
            yield from (int(code) for code in random.permutation(oracle.register.codes())[:most])
            return
        seen: set[int] = set()
        while len(seen) < most:
            code = _random_code(oracle, random)
            if code not in seen:
                seen.add(code)
                yield code

    def _to_first_mistake(self, oracle: Oracle, code: int) -> tuple[float, bool]:
        """Evaluate sample after sample until one is wrong: the classical race to accuracy 1."""
        oracle.ledger.shots_verify += 1
        random = np.random.default_rng([self.config.seed, 8, code])
        order = random.permutation(oracle.num_samples)
        right, place = 0.0, 0
        for size in (4, 12, 48, oracle.num_samples):
            chosen = order[place : place + size]
            correct = oracle.evaluate(code, chosen)
            wrong = np.flatnonzero(correct < 0.5)
            if wrong.size:
                used = int(wrong[0]) + 1
                oracle.ledger.classical_evals -= len(chosen) - used  # a race stops right there
                return (right + used - 1) / (place + used), False
            right += float(correct.sum())
            place += len(chosen)
        return 1.0, True

    def _ended(self, best: BestSoFar, count: int) -> str:
        config = self.config
        target = config.target_accuracy
        if target is not None and best.accuracy >= target - 1e-12:
            return "target"
        if target is not None and best.accuracy >= CERTAIN:
            return "confidence"
        if count >= config.budget.shots or best.seconds >= config.budget.seconds:
            return "budget"
        return ""


def _random_code(oracle: Oracle, random: np.random.Generator) -> int:
    """Return one code in use of a register too long to list."""
    code = 0
    register = oracle.register
    for spec, offset in zip(register.specs, register.offsets, strict=True):
        code |= int(random.choice(spec.codes)) << offset
    return code
