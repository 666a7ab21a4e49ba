"""What each test does to amplitudes: the state A|0> of one weight setting at a time.

A row is the state of everything but the weights, given one setting. Tests act on rows
independently; only the outer reflection couples them, and it knows the state as a whole.

The environment of a row depends on the test: for `single` and `chebyshev` it is the data register,
for `amplitude_estimate` data and estimate, for `replicas` how many copies are right (each pattern
of right and wrong copies of one count keeps the same relative amplitude, so the count is enough).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float
from numpy import ndarray

from ..coherent import AmplitudeEstimate, Chebyshev, CoherentTest, Damped, Replicas, Single
from ..problem import Table


@dataclass(frozen=True)
class Rows:
    """The data state of some settings, split into right and wrong branches."""

    data: Float[ndarray, "#row branch"]
    """psi: its amplitudes, real; `row` is 1 where all settings share them."""
    wrong: Bool[ndarray, "#row branch"]
    """Which branches hold a wrong answer; `row` is 1 where all settings share them."""

    @classmethod
    def of(cls, table: Table, first: int, last: int) -> Rows:
        """Return the rows `first` to `last` of a table.

        A Boolean model has a branch a sample; else each sample has two, its answer being both right
        and wrong: `sqrt(p C)` and `sqrt(p (1 - C))`, on which all phases of a test are constant.
        """
        right, amplitude = table.right[first:last], np.sqrt(table.probabilities)
        if table.is_boolean:
            return cls(amplitude[None], ~right)
        data = np.concatenate([amplitude * np.sqrt(right), amplitude * np.sqrt(1 - right)], 1)
        wrong = np.repeat([False, True], right.shape[1])[None]
        return cls(data, wrong)

    def accuracies(self) -> Float[ndarray, " row"]:
        """Return the probability of a right branch."""
        found: Float[ndarray, " row"] = np.where(self.wrong, 0.0, self.data**2).sum(1)
        return found


@dataclass(frozen=True)
class Prepared:
    """A|0> of some settings, and the branches in which the flag is up."""

    amplitudes: Complex[ndarray, "row env"] | Float[ndarray, "row env"]
    good: Bool[ndarray, "#row env"]
    """`row` is 1 where all settings share them."""


def prepare(test: CoherentTest, rows: Rows) -> Prepared:
    """Return what a test makes of rows.

    Raises:
        TypeError: a test that this module does not know.
    """
    match test:
        case Single():
            return Prepared(_full(rows), ~rows.wrong)
        case Chebyshev():
            return Prepared(_filtered(test, rows), ~rows.wrong)
        case Replicas():
            return _counted(test, rows.accuracies())
        case AmplitudeEstimate():
            return _estimated(test, rows)
        case Damped():
            return _damped(test, prepare(test.test, rows))
    raise TypeError(f"no amplitudes are known for {test!r}")


def environment(test: CoherentTest, branches: int) -> int:
    """Return how many branches a row has under a test.

    Args:
        test: the test.
        branches: of the data register: one a sample, or two where the model is not Boolean.
    """
    match test:
        case Replicas():
            return test.m + 1
        case AmplitudeEstimate():
            return branches * int(2**test.t)
        case Damped():
            return 2 * environment(test.test, branches)
    return branches


def _full(rows: Rows) -> Float[ndarray, "row branch"]:
    shape = np.broadcast_shapes(rows.data.shape, rows.wrong.shape)
    return np.ascontiguousarray(np.broadcast_to(rows.data, shape))


def _filtered(test: Chebyshev, rows: Rows) -> Complex[ndarray, "row branch"]:
    """Amplify the wrong branch: a phase on it, then one on the data state, step by step."""
    state = _full(rows).astype(np.complex128)
    for beta, alpha in test.phases:
        np.multiply(state, np.exp(1j * beta), out=state, where=rows.wrong)
        _turn(state, rows.data, complex(np.exp(-1j * alpha)))
    return state


def _turn(
    state: Complex[ndarray, "row branch"], data: Float[ndarray, "#row branch"], phase: complex
) -> None:
    """Multiply the component along the data state by a phase, in place."""
    if len(data) == 1:
        overlap = state @ data[0].astype(np.complex128)
    else:
        overlap = np.einsum("wi,wi->w", data, state)
    state += ((phase - 1) * overlap)[:, None] * data


def _counted(test: Replicas, accuracy: Float[ndarray, " row"]) -> Prepared:
    """Return amplitudes by the number of right copies."""
    counts = np.arange(test.m + 1)
    ways = np.array([math.comb(test.m, count) for count in counts], dtype=np.float64)
    right, wrong = np.sqrt(accuracy)[:, None], np.sqrt(np.maximum(1 - accuracy, 0))[:, None]
    amplitudes = np.sqrt(ways) * right**counts * wrong ** (test.m - counts)
    return Prepared(amplitudes, (counts >= test.threshold)[None])


def _estimated(test: AmplitudeEstimate, rows: Rows) -> Prepared:
    """Rotate the data state j times where the estimate holds j, then transform the estimate."""
    state, size = _full(rows).astype(np.complex128), 2**test.t
    turned = np.empty((len(state), size, state.shape[1]), dtype=np.complex128)
    for j in range(size):
        turned[:, j] = state
        np.negative(state, out=state, where=~rows.wrong)  # the phase on right branches
        _turn(state, rows.data, -1 + 0j)  # then 1 - 2|psi><psi|; their product is minus Grover's
        np.negative(state, out=state)
    estimates = np.fft.fft(turned, axis=1) / size
    good = np.repeat(test.good > 0, state.shape[1])
    return Prepared(estimates.reshape(len(state), -1), good[None])


def _damped(test: Damped, inner: Prepared) -> Prepared:
    """Split every branch by the ancilla; the flag is up where it is 1 too."""
    up, down = math.sqrt(test.factor), math.sqrt(1 - test.factor)
    amplitudes = np.concatenate([up * inner.amplitudes, down * inner.amplitudes], 1)
    return Prepared(amplitudes, np.concatenate([inner.good, np.zeros_like(inner.good)], 1))
