"""`optimization=exhaustive`: every weight setting, in full: the truth, where it can be afforded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fivefold import UserError

from ...config import ExhaustiveConfig
from ..ledger import Ledger
from ..optimizer import Callback, OptimizationResult
from ..problem import TABLE_BYTES, Problem
from .finishing import BestSoFar


def build(config: ExhaustiveConfig) -> Exhaustive:
    """Return the optimiser that the settings describe."""
    return Exhaustive(config)


class Exhaustive:
    """Evaluates all weights on all training samples; of equals, the smallest code."""

    def __init__(self, config: ExhaustiveConfig) -> None:
        self.config = config

    def optimize(self, problem: Problem, callbacks: Sequence[Callback] = ()) -> OptimizationResult:
        """Search the weights that get most training samples right.

        Raises:
            UserError: there are too many weights to enumerate.
        """
        register, weights = problem.register, problem.probabilities
        if register.num_bits > self.config.max_bits:
            raise UserError(
                f"{register.num_bits} weight bits are too many to enumerate",
                setting="optimization.max_bits",
                remedy="raise it, or choose optimization=random or quark",
            )
        ledger = Ledger()
        best = BestSoFar("exhaustive", problem, ledger, callbacks)
        samples = np.arange(len(weights))
        rows = max(TABLE_BYTES // (8 * len(weights)), 1)
        codes = register.codes()
        stopped = "exhausted"
        try:
            for start in range(0, len(codes), rows):
                bits = register.bits(codes[start : start + rows])
                accuracies = problem.evaluate_batch(bits, samples) @ weights
                ledger.classical_evals += accuracies.size * len(samples)
                ledger.shots_verify += accuracies.size
                top = int(accuracies.argmax())
                best.take(bits[top], float(accuracies[top]))
                best.report(min(start + rows, len(codes)))
        except KeyboardInterrupt:
            stopped = "interrupted"
        return best.result(stopped)
