"""`tensor`: the state vector as an array of settings by branches; no gates, no transpiler.

The outer iteration is kept relative to phi = A|0>. Writing the state as r phi, elementwise, the
sign on good branches and the reflection 2|phi><phi| - 1 are

    r <- r (1 - 2 good),    r <- 2 <|phi|^2, r> - r,

with r real: two passes over half the memory of two complex states, and every k is read off on the
way.
"""

from __future__ import annotations

import numpy as np
import psutil
from fivefold import UserError
from jaxtyping import Float
from numpy import ndarray

from ..coherent import CoherentTest
from ..problem import is_boolean, num_states
from .protocol import Amplified, Footprint
from .sampling import Simulated
from .states import Rows, environment, prepare

MOST_ELEMENTS = 2**27
"""Settings by branches that this engine takes; `auto` stops at half of it."""
_SLICE = 2**15
"""Complex numbers worked on at a time: what fits a core's cache."""


class Tensor(Simulated):
    """The default simulator: exact, without the closed form, every k in one pass."""

    name = "tensor"

    def run(self, test: CoherentTest, max_k: int) -> Amplified:
        """Return the distributions for k = 0 .. max_k.

        Raises:
            UserError: the array would be too large.
        """
        footprint = self.footprint(test)
        if not footprint.fits:
            raise UserError(
                f"{footprint.qubits} qubits' worth of amplitudes need "
                f"{footprint.memory / 2**30:.1f} GiB",
                setting="optimization.engine",
                value=self.name,
                remedy=footprint.advice,
            )
        weight, good = self._squared(test)
        return _iterate(weight, good, max_k)

    def footprint(self, test: CoherentTest) -> Footprint:
        """Return what a run takes: |phi|^2 and r in double precision, the table, and slices."""
        size = self.problem.register.size * self._env(test)
        memory = 16 * size + 2 * self.table_bytes + 64 * _SLICE
        fits = size <= MOST_ELEMENTS and memory <= psutil.virtual_memory().available
        advice = "lower optimization.block_bits, or choose engine=analytic"
        return Footprint((size - 1).bit_length(), memory, fits, advice)

    def _env(self, test: CoherentTest) -> int:
        """Return the branches of a setting."""
        return environment(test, num_states(self.problem) * (2 - is_boolean(self.problem)))

    def _squared(self, test: CoherentTest) -> tuple[ndarray, ndarray]:
        """Return |phi|^2 / row and the good branches, made slice by slice."""
        omega, env = len(self.table.codes), self._env(test)
        step = max(_SLICE // env, 1)
        weight = np.empty((omega, env))
        good: ndarray | None = None
        for first in range(0, omega, step):
            made = prepare(test, Rows.of(self.table, first, first + step))
            amplitudes = made.amplitudes
            np.square(amplitudes.real, out=weight[first : first + step])
            if np.iscomplexobj(amplitudes):
                weight[first : first + step] += np.square(amplitudes.imag)
            if good is None:
                shared = len(made.good) == 1 and omega > 1
                good = made.good if shared else np.empty((omega, env), dtype=np.bool_)
            if len(good) == omega:
                good[first : first + step] = made.good
        weight /= omega
        assert good is not None
        return weight, good


def _iterate(weight: Float[ndarray, "omega env"], good: ndarray, max_k: int) -> Amplified:
    """Return P_k and the flag from the squared amplitudes of A|0>, for k = 0 .. max_k.

    One pass over memory a k: the reflection of an iteration is applied when the next one comes by.
    """
    omega, env = weight.shape
    relative = np.ones_like(weight)
    probabilities, flag = np.empty((max_k + 1, omega)), np.zeros(max_k + 1)
    step = max(_SLICE // env, 1)
    twice_mean: float | None = None
    for k in range(max_k + 1):
        overlap = 0.0
        for first in range(0, omega, step):
            part = slice(first, first + step)
            r, here = relative[part], good if len(good) == 1 else good[part]
            if twice_mean is not None:
                np.subtract(twice_mean, r, out=r)
            up = np.broadcast_to(here.astype(np.float64), r.shape)
            amplitude = weight[part] * r
            overlap += float(amplitude.sum() - 2 * np.vdot(amplitude, up))
            amplitude *= r
            probabilities[k, part] = amplitude.sum(1)
            flag[k] += np.vdot(amplitude, up)
            if k < max_k:
                r *= 1 - 2 * up
        twice_mean = 2 * overlap
    return Amplified(probabilities, flag)
