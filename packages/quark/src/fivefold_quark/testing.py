"""The exam of optimisers.

A third party's whole test: `class TestMine(OptimizerSuite): overrides = ["optimization=mine"]`.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from fivefold import Run
from fivefold.testing import compose
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .engine.optimizer import OptimizationResult, Optimizer, Progress
from .engine.problem import Problem, Training, tabulate
from .engine.problems.edge import edge3
from .engine.problems.images import bundled_digits, tiny
from .engine.problems.warm_ups import not_and, xor

HEAVY = ("numpy", "qiskit", "qiskit_aer", "sklearn", "torch", "transformers", "jaxtyping")
"""What a describing module may not import."""


class Counted:
    """A problem that offers nothing but the protocol, and counts what is asked.

    Args:
        problem: the real one.
    """

    def __init__(self, problem: Training) -> None:
        self.name = problem.name
        self.register = problem.register
        self.probabilities = problem.probabilities
        self.model = problem.model
        self.asked = 0
        self._problem = problem

    def evaluate_batch(
        self, weights: UInt8[ndarray, "n bit"], indices: Int[ndarray, " m"]
    ) -> Float[ndarray, "n m"]:
        """Return C[w, i], and count it."""
        self.asked += len(weights) * len(indices)
        return self._problem.evaluate_batch(weights, indices)


class OptimizerSuite:
    """What every optimiser must hold."""

    overrides: ClassVar[Sequence[str]] = ()
    """What the command line would be given."""
    task: ClassVar[str] = "quantum"
    seeds: ClassVar[Sequence[int]] = (0, 1, 2)
    counts_every_evaluation: ClassVar[bool] = True
    """Whether it asks the problem for nothing that the ledger does not hold; a simulated quantum
    computer makes a table of its own."""

    def compose(self, *more: str) -> Run:
        """Return the run of these overrides and some more."""
        return compose(self.task, [*self.overrides, *more])

    def optimizer(self, *more: str) -> Optimizer:
        """Return the optimiser of these overrides and some more."""
        built: Optimizer = self.compose(*more).build("optimization")
        return built

    def optimize(self, problem: Problem, seed: int, *more: str) -> OptimizationResult:
        """Return what one seed finds."""
        return self.optimizer(f"optimization.seed={seed}", *more).optimize(problem)

    def test_best_weights_of_small_problems_are_found(self) -> None:
        """By brute force: XOR, NOT-AND and edge detection have one best setting each."""
        for problem in (xor(), not_and(), edge3()):
            table = tabulate(problem)
            best = table.codes[table.accuracies.argmax()]
            for seed in self.seeds:
                found = self.optimize(problem, seed)
                assert problem.register.code(np.array([found.weights], dtype=np.uint8)) == best

    def test_reported_accuracies_are_those_of_the_weights(self) -> None:
        """Evaluated here, classically and in full, on training and on test samples."""
        for problem in (edge3(split_seed=1), tiny(bundled_digits(), (6, 7), test_share=0.3)):
            found = self.optimize(problem, self.seeds[0])
            bits = np.array([found.weights], dtype=np.uint8)
            assert found.train_accuracy == pytest.approx(problem.accuracy(bits)[0], abs=1e-12)
            tested = problem.accuracy(bits, problem.test)[0]
            assert found.test_accuracy == pytest.approx(tested, abs=1e-12)

    def test_incumbents_only_improve_and_the_last_is_the_result(self) -> None:
        """What was best over time, with what had been spent."""
        found = self.optimize(tiny(bundled_digits(), (6, 7)), self.seeds[0])
        accuracies = [incumbent.accuracy for incumbent in found.incumbents]
        assert accuracies == sorted(set(accuracies))
        assert accuracies[-1] == pytest.approx(found.train_accuracy)
        assert found.incumbents[-1].weights == found.weights
        spent = [incumbent.ledger.queries for incumbent in found.incumbents]
        assert spent == sorted(spent)

    def test_the_same_seed_gives_the_same_result(self) -> None:
        """Weights, counters and all."""
        problem = tiny(bundled_digits(), (6, 7))
        one, other = (self.optimize(problem, 5) for _ in range(2))
        assert one.weights == other.weights
        assert one.ledger == other.ledger

    def test_a_problem_is_asked_through_its_protocol_and_counted(self) -> None:
        """Nothing else is there to ask."""
        problem = Counted(edge3())
        found = self.optimize(problem, self.seeds[0])
        assert found.ledger.classical_evals <= problem.asked
        if self.counts_every_evaluation:
            assert found.ledger.classical_evals == problem.asked

    def test_an_interruption_keeps_the_best_weights(self) -> None:
        """Ctrl-C, as soon as there is something to keep."""
        rounds: list[Progress] = []

        def interrupt(progress: Progress) -> None:
            rounds.append(progress)
            if len(rounds) > 1 and progress.incumbent > 0:
                raise KeyboardInterrupt

        problem = tiny(bundled_digits(), (6, 7))
        found = self.optimizer("optimization.seed=0").optimize(problem, [interrupt])
        assert found.is_partial or len(rounds) < 2
        bits = np.array([found.weights], dtype=np.uint8)
        assert found.train_accuracy == pytest.approx(problem.accuracy(bits)[0], abs=1e-12)

    def test_callbacks_are_told_the_incumbent_and_the_ledger(self) -> None:
        """Rounds count up, the incumbent never falls, and what is told is not changed later."""
        told: list[Progress] = []
        self.optimizer("optimization.seed=1").optimize(edge3(), [told.append])
        assert [p.round for p in told] == sorted(p.round for p in told)
        assert all(a.incumbent <= b.incumbent for a, b in itertools.pairwise(told))
        spent = [p.ledger.queries for p in told]
        assert spent == sorted(spent)

    def test_the_describing_module_is_light(self) -> None:
        """Its package can be listed where NumPy and Qiskit are missing."""
        module = self.compose().settings("optimization").__class__.__module__
        block = f"import sys\nfor name in {HEAVY!r}:\n    sys.modules[name] = None\n"
        subprocess.run([sys.executable, "-c", f"{block}import {module}"], check=True)


__all__ = ["Counted", "OptimizerSuite"]
