"""The oracle: all that an optimiser may ask about a problem, and what each question costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .coherent import CoherentTest
from .engines.protocol import Engine
from .ledger import Ledger
from .problem import Problem
from .weights import WeightRegister


class Oracle:
    """Answers measurements and evaluations, and writes each into the ledger.

    An optimiser that holds nothing but an oracle is blind: it sees measured codes, flags, and the
    correctness of single samples, never the table of accuracies.

    Args:
        problem: weights and training samples.
        engine: bound to the problem; nothing for classical optimisers.
        seed: of the measurements.
    """

    def __init__(self, problem: Problem, engine: Engine | None = None, seed: int = 0) -> None:
        self.ledger = Ledger()
        self._problem = problem
        self._engine = engine
        self._random = np.random.default_rng([seed, 0])
        self._circuits: set[tuple[CoherentTest, int]] = set()

    @property
    def register(self) -> WeightRegister:
        """The weight register."""
        return self._problem.register

    @property
    def num_codes(self) -> int:
        """Omega: settings in use."""
        return self.register.size

    @property
    def num_samples(self) -> int:
        """N: training samples."""
        return len(self._problem.probabilities)

    @property
    def probabilities(self) -> Float[ndarray, " n"]:
        """p_i: what each training sample counts."""
        return self._problem.probabilities

    def measure(self, test: CoherentTest, k: int, shots: int = 1) -> Int[ndarray, " shot"]:
        """Measure the weight register after k iterations; costs (2k + 1) preparations a shot."""
        self._charge(test, k, shots)
        self.ledger.shots_weight += shots
        return self._bound.sample(test, k, shots, self._random)

    def measure_flag(self, test: CoherentTest, shots: int, k: int = 0) -> int:
        """Measure the flag; returns in how many shots it is up. Costs as `measure` does."""
        self._charge(test, k, shots)
        self.ledger.shots_theta += shots
        return self._bound.sample_flag(test, k, shots, self._random)

    def exact_mean(self, test: CoherentTest) -> float:
        """Return the exact mean score, free of charge: a simulator's privilege, so say so."""
        return self._bound.mean_score(test)

    def draw(self, count: int = 1) -> Int[ndarray, " n"]:
        """Draw codes uniformly, with replacement: free, nothing was measured."""
        return self.register.codes()[self._random.integers(self.num_codes, size=count)]

    def evaluate(
        self, code: int | UInt8[ndarray, " bit"], indices: Sequence[int] | Int[ndarray, " m"]
    ) -> Float[ndarray, " m"]:
        """Return the correctness of one setting on some training samples; one evaluation each."""
        self.ledger.classical_evals += len(indices)
        chosen = np.asarray(indices, dtype=np.int64)
        right: Float[ndarray, " m"] = self._problem.evaluate_batch(self._bits(code), chosen)[0]
        return right

    def accuracy(self, code: int | UInt8[ndarray, " bit"]) -> float:
        """Return the training accuracy of one setting, exactly; N evaluations."""
        right = self.evaluate(code, np.arange(self.num_samples))
        return float(right @ self.probabilities)

    def _bits(self, code: int | UInt8[ndarray, " bit"]) -> UInt8[ndarray, "1 bit"]:
        if isinstance(code, ndarray):
            return code[None]
        return self.register.bits(np.array([code], dtype=np.int64))

    @property
    def _bound(self) -> Engine:
        assert self._engine is not None, "a classical optimiser has nothing to measure"
        return self._engine

    def _charge(self, test: CoherentTest, k: int, shots: int) -> None:
        spent, runs = self.ledger, shots * (2 * k + 1)
        spent.model_queries += runs * test.cost
        spent.loader_queries += runs * test.loads
        spent.circuit_executions += shots
        self._circuits.add((test, k))
        spent.distinct_circuits = len(self._circuits)
