"""Coherent tests: how the accuracy of a weight becomes the probability that its flag is up.

Amplitude amplification sees model and data through the score s(w) = Pr[flag = 1 | w] alone, so a
test is described by the function from accuracy to score and by its price. What a test does to
amplitudes is written where amplitudes are: `engines/tensor.py`, `engines/compiled.py`, `circuits/`.

Source: arXiv 2210.01311 for `single` and two replicas; general replicas reconstructed; the
Chebyshev filter is a fixed-point amplification (Yoder, Low and Chuang, arXiv 1409.3305) of the
wrong branch; amplitude estimation after Brassard et al., quant-ph/0005055.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from fivefold import UserError
from jaxtyping import Float
from numpy import ndarray

from .arrays import Floats


@runtime_checkable
class CoherentTest(Protocol):
    """A sharpening of "the sample was classified correctly" into a flag. Hashable, so cacheable."""

    @property
    def label(self) -> str:
        """How tables name it: `chebyshev(L=9, tau=0.900)`."""

    @property
    def cost(self) -> int:
        """Model queries of one preparation A."""

    @property
    def loads(self) -> int:
        """Loader queries of one preparation A."""

    @property
    def copies(self) -> int:
        """Data registers it needs side by side."""

    @property
    def extra_qubits(self) -> int:
        """Qubits beside weights, data registers and model: an estimate register, a flag."""

    def score(self, accuracy: Floats) -> Floats:
        """Return s for accuracies from 0 to 1; monotone, 1 where the accuracy is 1."""


@dataclass(frozen=True)
class Single:
    """The flag is "output equals label" itself: s = acc. Too weak to search with; a reference."""

    copies = 1
    cost = 1
    loads = 1
    extra_qubits = 0
    label = "single"

    def score(self, accuracy: Floats) -> Floats:
        """Return acc."""
        return np.asarray(accuracy, dtype=np.float64)


@dataclass(frozen=True)
class Replicas:
    """Several independent data copies, of which at least some must be right.

    s = acc^m, or with `least` = r < m the binomial tail sum_{j >= r} C(m, j) acc^j (1 - acc)^(m-j).
    """

    m: int
    """Data copies."""
    least: int = 0
    """How many must be right; 0: all of them."""
    extra_qubits = 0

    def __post_init__(self) -> None:
        _whole(self.m, 1, "m")
        if not 0 <= self.least <= self.m:
            _refuse(f"{self.least} of {self.m} copies cannot be right", "least", f"0 to {self.m}")

    @property
    def label(self) -> str:
        """`replicas(m=8)`."""
        return f"replicas(m={self.m}{f', least={self.least}' if self.least else ''})"

    @property
    def threshold(self) -> int:
        """Copies that must be right."""
        return self.least or self.m

    @property
    def cost(self) -> int:
        """One query a copy."""
        return self.m

    @property
    def loads(self) -> int:
        """One load a copy."""
        return self.m

    @property
    def copies(self) -> int:
        """The copies stand side by side."""
        return self.m

    def score(self, accuracy: Floats) -> Floats:
        """Return the probability that enough copies are right."""
        right = np.asarray(accuracy, dtype=np.float64)
        if self.threshold == self.m:
            powered: Floats = right**self.m
            return powered
        chances = [
            math.comb(self.m, j) * right**j * (1 - right) ** (self.m - j)
            for j in range(self.threshold, self.m + 1)
        ]
        tail: Floats = np.sum(chances, axis=0)
        return tail


@dataclass(frozen=True)
class Chebyshev:
    """A polynomial filter on one data register: amplify the wrong branch, then test "still right".

        s = (T_L(x0 sqrt(acc)) / T_L(x0))^2,   x0 = 1 / sqrt(tau)

    At most delta^2 = T_L(x0)^-2 below tau, rising above it, 1 at acc = 1.
    """

    L: int  # the filter's degree, as it is written
    """Degree, odd: model queries of one preparation."""
    tau: float
    """Accuracy from which on the score rises, above 0 and below 1."""
    copies = 1
    extra_qubits = 0

    def __post_init__(self) -> None:
        _whole(self.L, 1, "L")
        if self.L % 2 == 0:
            _refuse(f"a filter of even degree {self.L}", "L", f"{self.L + 1}")
        if not 0.0 < self.tau < 1.0:
            _refuse(f"no accuracy to rise from: {self.tau}", "tau", "a number between 0 and 1")

    @property
    def label(self) -> str:
        """`chebyshev(L=9, tau=0.900)`."""
        return f"chebyshev(L={self.L}, tau={self.tau:.3f})"

    @property
    def cost(self) -> int:
        """Two queries a step (compute, uncompute) and one for the last test."""
        return self.L

    @property
    def loads(self) -> int:
        """The reflection about the data state loads and unloads, at each step."""
        return self.L

    @property
    def delta(self) -> float:
        """Square root of the largest score below tau."""
        return float(1 / _chebyshev(self.L, np.array(1 / math.sqrt(self.tau))))

    @cached_property
    def phases(self) -> tuple[tuple[float, float], ...]:
        """(beta_j, alpha_j): the phase on wrong branches, then that on the data state.

        Step j multiplies wrong branches by e^{i beta_j}, then the data state by e^{-i alpha_j}.
        The sign of alpha alone decides whether this is the filter or something plausible.
        """
        steps, width = (self.L - 1) // 2, math.sqrt(1 - self.tau)
        alpha = [
            2 * math.atan2(1.0, math.tan(2 * math.pi * j / self.L) * width)
            for j in range(1, steps + 1)
        ]
        return tuple((-back, forth) for back, forth in zip(reversed(alpha), alpha, strict=True))

    def score(self, accuracy: Floats) -> Floats:
        """Return the square of the scaled polynomial."""
        x = np.sqrt(np.asarray(accuracy, dtype=np.float64) / self.tau)
        return np.minimum((self.delta * _chebyshev(self.L, x)) ** 2, 1.0)


@dataclass(frozen=True)
class AmplitudeEstimate:
    """Estimate the accuracy in t bits by phase estimation; the flag is up from tau on.

    The estimate y stands for sin^2(pi y / 2^t); with acc = sin^2(phi),

        s = sum over y with sin^2(pi y / 2^t) >= tau of F(y),
        F(y) = (sin(2^t d) / (2^t sin(d)))^2,   d = phi - pi y / 2^t.
    """

    t: int
    """Bits of the estimate."""
    tau: float
    """Accuracy from which on the flag is up."""
    copies = 1

    def __post_init__(self) -> None:
        _whole(self.t, 1, "t")
        if self.t > 10:
            _refuse(f"an estimate of {self.t} bits", "t", "1 to 10")
        if not 0.0 < self.tau <= 1.0:
            _refuse(f"no accuracy to look for: {self.tau}", "tau", "above 0, at most 1")

    @property
    def label(self) -> str:
        """`amplitude_estimate(t=4, tau=0.900)`."""
        return f"amplitude_estimate(t={self.t}, tau={self.tau:.3f})"

    @property
    def cost(self) -> int:
        """Two queries a rotation, 2^t - 1 rotations, and one to prepare."""
        return int(2 ** (self.t + 1) - 1)

    @property
    def loads(self) -> int:
        """As often as the model."""
        return self.cost

    @property
    def extra_qubits(self) -> int:
        """The estimate; its comparison with tau is done in phases."""
        return self.t

    @cached_property
    def good(self) -> Float[ndarray, " estimate"]:
        """Whether each estimate y says "at least tau", as 1 or 0."""
        y = np.arange(2**self.t)
        says = np.sin(math.pi * y / 2**self.t) ** 2 >= self.tau - 1e-12
        good: Float[ndarray, " estimate"] = says.astype(np.float64)
        return good

    def score(self, accuracy: Floats) -> Floats:
        """Return the probability that the estimate is at least tau."""
        right = np.asarray(accuracy, dtype=np.float64)
        phase = np.arcsin(np.sqrt(np.clip(right, 0.0, 1.0)))
        size = 2**self.t
        d = phase[..., None] - math.pi * np.arange(size) / size
        below = size * np.sin(d)
        near = np.abs(below) < 1e-9
        kernel = np.where(near, 1.0, np.sin(size * d) / np.where(near, 1.0, below)) ** 2
        found: Floats = kernel @ self.good
        return found


@dataclass(frozen=True)
class Damped:
    """A test whose flag an ancilla lowers by a known factor: s' = factor s.

    With the factor that makes (2k + 1) theta' = pi / 2 the k-th iteration ends exactly on the good
    branch (`exact_k`).
    """

    test: CoherentTest
    factor: float
    """From above 0 to 1: sin^2 of half the ancilla's rotation."""

    @classmethod
    def exact(cls, test: CoherentTest, mean: float, k: int) -> Damped:
        """Return the test for which k iterations leave nothing on the wrong branch.

        Raises:
            UserError: k is too small for this mean score; no damping can help.
        """
        wanted = math.sin(math.pi / (2 * (2 * k + 1))) ** 2
        if mean <= 0.0 or wanted > mean + 1e-15:
            raise UserError(
                f"{k} iterations cannot be exact at a mean score of {mean:.3g}",
                setting="optimization.schedule.k",
                remedy="give more, or null",
            )
        return cls(test, min(wanted / mean, 1.0))

    @property
    def label(self) -> str:
        """The inner test, with its factor."""
        return f"{self.test.label} x {self.factor:.3f}"

    @property
    def cost(self) -> int:
        """As the inner test."""
        return self.test.cost

    @property
    def loads(self) -> int:
        """As the inner test."""
        return self.test.loads

    @property
    def copies(self) -> int:
        """As the inner test."""
        return self.test.copies

    @property
    def extra_qubits(self) -> int:
        """The ancilla."""
        return self.test.extra_qubits + 1

    def score(self, accuracy: Floats) -> Floats:
        """Return the lowered score."""
        return self.factor * self.test.score(accuracy)


_HIGH_MEAN, _TOLD_APART = 0.4, 2.5
"""A mean score from which on amplification gains little, where the best is not so many times it."""
WEAK = "test too weak: raise m or L"
"""What is said where `is_too_weak`."""


def is_too_weak(mean: float, top: float) -> bool:
    """Whether amplification hardly helps: most weights pass the test, and the best not much better.

    With one data copy and a model family closed under flipping its output the mean score is exactly
    1/2, theta is 45 degrees, and every k gives the same flag probability.

    Args:
        mean: mean score over the register, or over a sample of it.
        top: score of the best weight that is known.
    """
    return bool(mean >= _HIGH_MEAN and top < _TOLD_APART * mean)


def _chebyshev(degree: int, x: Floats) -> Floats:
    """Return T_L(x) for x >= 0, for any size of it."""
    inside = np.cos(degree * np.arccos(np.minimum(x, 1.0)))
    outside = np.cosh(degree * np.arccosh(np.maximum(x, 1.0)))
    found: Floats = np.where(x <= 1.0, inside, outside)
    return found


def _whole(value: int, least: int, name: str) -> None:
    if value < least:
        _refuse(f"{name} = {value}", name, f"{least} or more")


def _refuse(problem: str, name: str, remedy: str) -> None:
    raise UserError(problem, setting=f"optimization.test.{name}", remedy=f"give {remedy}")
