"""Shots from a distribution that one simulation gave: as many as are wanted, at no more cost."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..coherent import CoherentTest
from ..problem import Problem, Table, is_boolean, num_states, tabulate
from .protocol import Amplified

_KEPT_BYTES = 2**28
"""Distributions kept, the latest; a single one may be longer."""
_STRETCH = 1.5
"""How much further than asked a pass goes, since the next plan asks for a few iterations more."""


class Simulated:
    """What simulators share: the table, the distributions made so far, shots drawn from them."""

    name = ""

    def __init__(self, problem: Problem, table: Table | None = None) -> None:
        """Bind an engine to a problem.

        Args:
            problem: weights and samples.
            table: its correctness, when it is at hand already.
        """
        self.problem = problem
        self._given = table
        self._kept: dict[CoherentTest, Amplified] = {}

    @cached_property
    def table(self) -> Table:
        """Correctness of every setting and sample: made when something runs, not to plan it."""
        return tabulate(self.problem) if self._given is None else self._given

    @property
    def table_bytes(self) -> int:
        """Size of the table."""
        return elements(self.problem) * (1 if is_boolean(self.problem) else 8)

    def run(self, test: CoherentTest, max_k: int) -> Amplified:
        """Return the distributions for k = 0 .. max_k."""
        raise NotImplementedError

    def distribution(self, test: CoherentTest, k: int) -> Float[ndarray, " omega"]:
        """Return P_k(w), kept from an earlier pass where one went far enough."""
        found: Float[ndarray, " omega"] = self._reaching(test, k).probabilities[k]
        return found

    def sample(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> Int[ndarray, " shot"]:
        """Return the codes that shots show."""
        edges = np.cumsum(self.distribution(test, k))
        places = np.searchsorted(edges, random.random(shots) * edges[-1], side="right")
        shown: Int[ndarray, " shot"] = self.table.codes[np.minimum(places, len(edges) - 1)]
        return shown

    def sample_flag(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> int:
        """Return in how many shots the flag is up."""
        return int(random.binomial(shots, min(float(self._reaching(test, k).flag[k]), 1.0)))

    def mean_score(self, test: CoherentTest) -> float:
        """Return the flag's probability without amplification."""
        return float(self._reaching(test, 0).flag[0])

    def _reaching(self, test: CoherentTest, k: int) -> Amplified:
        found = self._kept.pop(test, None)
        if found is None or len(found.flag) <= k:
            found = self.run(test, int(k * _STRETCH) + 1)
        self._kept[test] = found
        while len(self._kept) > 1 and self._size() > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return found

    def _size(self) -> int:
        return sum(kept.probabilities.nbytes for kept in self._kept.values())


def elements(problem: Problem) -> int:
    """Return Omega x N, pads included: the elements of the table."""
    return problem.register.size * num_states(problem)
