"""`optimization=parameter_shift`: gradient training of the same model, relaxed to rotated qubits.

Weight bit j becomes a qubit turned by RY(phi_j): it shows 1 with probability sin^2(phi_j / 2). The
expected accuracy is a smooth function of the angles, and its exact derivative is half the
difference of two evaluations,

    dE / dphi_j = (E(phi_j + pi/2) - E(phi_j - pi/2)) / 2

(Mitarai et al., arXiv 1803.00745; Schuld et al., arXiv 1811.11184). Every evaluation is estimated
from shots: each draws the weight bits and one training sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fivefold import UserError
from jaxtyping import Float
from numpy import ndarray

from ...config import ParameterShiftConfig
from ..ledger import Ledger
from ..optimizer import Callback, OptimizationResult
from ..problem import Problem
from .finishing import CERTAIN, BestSoFar

_EXACT_BITS = 14
"""Longest register whose expectation values are summed exactly."""


def build(config: ParameterShiftConfig) -> ParameterShift:
    """Return the optimiser that the settings describe."""
    return ParameterShift(config)


class ParameterShift:
    """Adam on the relaxed model, with restarts; the angles are rounded to bits for the verdict."""

    def __init__(self, config: ParameterShiftConfig) -> None:
        self.config = config

    def optimize(self, problem: Problem, callbacks: Sequence[Callback] = ()) -> OptimizationResult:
        """Search the weights that get most training samples right.

        Raises:
            UserError: an alphabet with unused codes, or exact values of too long a register.
        """
        self._check(problem)
        ledger = Ledger()
        best = BestSoFar("parameter_shift", problem, ledger, callbacks)
        random = np.random.default_rng([self.config.seed, 9])
        relaxed = Relaxed(problem, self.config.shots, random, ledger)
        stopped, count = "budget", 0
        try:
            for _ in range(self.config.restarts):
                angles = random.uniform(0.0, 2.0 * math.pi, problem.register.num_bits)
                adam = _Adam(self.config.learning_rate)
                for step in range(self.config.steps):
                    angles = angles + adam.step(relaxed.gradient(angles))
                    count += 1
                    if step % 10 == 9 or step == self.config.steps - 1:
                        self._judge(problem, angles, best, ledger)
                    best.report(count)
                    ended = self._ended(best)
                    if ended:
                        return best.result(ended, steps=count)
        except KeyboardInterrupt:
            stopped = "interrupted"
        return best.result(stopped, steps=count)

    def _check(self, problem: Problem) -> None:
        if not problem.register.is_full:
            raise UserError(
                "a rotated qubit cannot leave out the unused code of a ternary weight",
                setting="optimization",
                remedy="choose bits, fixed point or angles for the model, or another method",
            )
        if self.config.shots == 0 and problem.register.num_bits > _EXACT_BITS:
            raise UserError(
                f"exact values over {problem.register.num_bits} weight bits",
                setting="optimization.shots",
                remedy="give 1 or more",
            )

    @staticmethod
    def _judge(
        problem: Problem, angles: Float[ndarray, " bit"], best: BestSoFar, ledger: Ledger
    ) -> None:
        """Round the angles and evaluate the setting in full."""
        bits = (np.sin(angles / 2.0) ** 2 > 0.5).astype(np.uint8)
        weights = problem.probabilities
        right = problem.evaluate_batch(bits[None], np.arange(len(weights)))[0]
        ledger.classical_evals += len(weights)
        ledger.shots_verify += 1
        best.take(bits, float(right @ weights))

    def _ended(self, best: BestSoFar) -> str:
        target = self.config.target_accuracy
        if target is not None and best.accuracy >= target - 1e-12:
            return "target"
        if best.accuracy >= CERTAIN:
            return "confidence"
        return "budget" if best.accuracy >= 0 and best.seconds >= self.config.seconds else ""


class Relaxed:
    """The expected accuracy of rotated weight qubits.

    Args:
        problem: what is trained.
        shots: an evaluation's; 0: exact, by enumeration.
        random: of the shots.
        ledger: where shots are counted.
    """

    def __init__(
        self, problem: Problem, shots: int, random: np.random.Generator, ledger: Ledger
    ) -> None:
        self._problem = problem
        self._shots = shots
        self._random = random
        self._ledger = ledger
        self._accuracies: Float[ndarray, " omega"] | None = None

    def gradient(self, angles: Float[ndarray, " bit"]) -> Float[ndarray, " bit"]:
        """Return the derivative of the expected accuracy, by the parameter-shift rule."""
        shifts = np.eye(len(angles)) * (math.pi / 2.0)
        values = self.values(np.concatenate([angles + shifts, angles - shifts]))
        found: Float[ndarray, " bit"] = (values[: len(angles)] - values[len(angles) :]) / 2.0
        return found

    def values(self, angles: Float[ndarray, "point bit"]) -> Float[ndarray, " point"]:
        """Return the expected accuracy at several points, from shots of each."""
        chances = np.sin(angles / 2.0) ** 2
        if not self._shots:
            return self._exact(chances)
        points = len(angles)
        spent = points * self._shots
        self._ledger.shots_weight += spent
        self._ledger.model_queries += spent
        self._ledger.loader_queries += spent
        self._ledger.circuit_executions += spent
        weights = self._problem.probabilities
        samples = self._random.choice(len(weights), size=self._shots, p=weights)
        total = np.zeros(points)
        for sample in samples:  # one sample a shot for all points at once
            bits = (self._random.random(chances.shape) < chances).astype(np.uint8)
            right = self._problem.evaluate_batch(bits, np.array([sample]))[:, 0]
            total += self._random.random(points) < right
        return total / self._shots

    def _exact(self, chances: Float[ndarray, "point bit"]) -> Float[ndarray, " point"]:
        """Sum over all settings; evaluating them, once, is what a simulator's privilege costs."""
        register = self._problem.register
        bits = register.bits(register.codes())
        if self._accuracies is None:
            weights = self._problem.probabilities
            everything = np.arange(len(weights))
            self._accuracies = self._problem.evaluate_batch(bits, everything) @ weights
            self._ledger.classical_evals += len(bits) * len(weights)
        odds = np.where(bits[None] == 1, chances[:, None], 1.0 - chances[:, None]).prod(-1)
        found: Float[ndarray, " point"] = odds @ self._accuracies
        return found


class _Adam:
    """Adam (arXiv 1412.6980), uphill."""

    def __init__(self, rate: float) -> None:
        self._rate, self._count = rate, 0
        self._mean: ndarray | float = 0.0
        self._square: ndarray | float = 0.0

    def step(self, gradient: Float[ndarray, " bit"]) -> Float[ndarray, " bit"]:
        self._count += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1.0 - 0.9**self._count)
        square = self._square / (1.0 - 0.999**self._count)
        found: Float[ndarray, " bit"] = self._rate * mean / (np.sqrt(square) + 1e-8)
        return found
