"""`analytic`: the master formula, from the accuracies alone."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import psutil
from jaxtyping import Float
from numpy import ndarray

from ..arrays import Codes, Floats
from ..coherent import CoherentTest
from ..formula import distribution, success
from .protocol import Amplified, Footprint
from .sampling import Simulated


class Analytic(Simulated):
    """P_k(w) in closed form: for planning, figures, and as the reference of the other engines."""

    name = "analytic"

    def run(self, test: CoherentTest, max_k: int) -> Amplified:
        """Return the distributions for k = 0 .. max_k."""
        score = self._score(test)
        ks = range(max_k + 1)
        probabilities = np.stack([distribution(score, k) for k in ks])
        flag = np.array([float(success(min(score.mean(), 1.0), k)) for k in ks])
        return Amplified(probabilities, flag)

    def distribution(self, test: CoherentTest, k: int) -> Float[ndarray, " omega"]:
        """Return P_k(w) for one k, which costs no more than one."""
        return distribution(self._score(test), k)

    def _score(self, test: CoherentTest) -> Float[ndarray, " omega"]:
        """Return the score of every setting; most share their accuracy with others."""
        accuracies, place = self._levels
        score: Float[ndarray, " omega"] = test.score(accuracies)[place]
        return score

    @cached_property
    def _levels(self) -> tuple[Floats, Codes]:
        accuracies, place = np.unique(self.table.accuracies, return_inverse=True)
        return accuracies, place

    def footprint(self, test: CoherentTest) -> Footprint:
        """Return what a run takes: the table of correctness and a few vectors."""
        memory = self.table_bytes + 32 * self.problem.register.size
        fits = memory <= psutil.virtual_memory().available
        return Footprint(0, memory, fits, "lower optimization.block_bits")
