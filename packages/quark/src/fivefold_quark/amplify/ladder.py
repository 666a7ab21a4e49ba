"""The tests that a search may choose from, as the settings allow."""

from __future__ import annotations

from collections.abc import Iterator

from .._words import TestKind
from ..config import CoherentTestConfig
from ..engine.coherent import AmplitudeEstimate, Chebyshev, CoherentTest, Replicas, Single
from .planner import Ladder

DEGREES = (3, 5, 7, 9, 11, 15, 21, 31)
"""Degrees of the polynomial filter that are compared."""
COPIES = (1, 2, 4, 8, 16, 32, 64)
"""Data copies that are compared."""
BITS = (2, 3, 4, 5)
"""Bits of an estimate that are compared."""
_GAPS = (4.0, 2.5, 1.6, 1.0, 0.6, 0.35)
"""Where a test begins to look: its distance to 1, as a multiple of the incumbent's."""
_LEAST_TAU, _MOST_TAU = 0.05, 0.995
_FIXED = {"L": 9, "m": 8, "t": 4}
"""What a schedule without a planner takes where nothing is set."""


def ladder(config: CoherentTestConfig) -> Ladder:
    """Return the rungs: for an incumbent, every test that the settings leave open."""

    def rung(incumbent: float) -> Iterator[CoherentTest]:
        if config.kind == TestKind.SINGLE:
            yield Single()
        elif config.kind == TestKind.REPLICAS:
            for m in COPIES if config.m is None else (config.m,):
                yield Replicas(m, config.least)
        else:
            for tau in _taus(config, incumbent):
                yield from _rising(config, tau)

    return rung


def fixed(config: CoherentTestConfig, incumbent: float) -> CoherentTest:
    """Return one test for a schedule that does not choose: what is set, or a usual size."""
    if config.kind == TestKind.SINGLE:
        return Single()
    if config.kind == TestKind.REPLICAS:
        return Replicas(config.m or _FIXED["m"], config.least)
    tau = _clamped(incumbent) if config.tau is None else config.tau
    if config.kind == TestKind.CHEBYSHEV:
        return Chebyshev(config.L or _FIXED["L"], tau)
    return AmplitudeEstimate(config.t or _FIXED["t"], tau)


def _taus(config: CoherentTestConfig, incumbent: float) -> list[float]:
    if config.tau is not None:
        return [config.tau]
    return sorted({_clamped(1.0 - gap * (1.0 - incumbent)) for gap in _GAPS})


def _clamped(tau: float) -> float:
    return min(max(tau, _LEAST_TAU), _MOST_TAU)


def _rising(config: CoherentTestConfig, tau: float) -> Iterator[CoherentTest]:
    if config.kind == TestKind.CHEBYSHEV:
        for degree in DEGREES if config.L is None else (config.L,):
            yield Chebyshev(degree, tau)
    else:
        for bits in BITS if config.t is None else (config.t,):
            yield AmplitudeEstimate(bits, tau)
