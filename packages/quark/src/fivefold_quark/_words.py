"""The vocabulary of problems, tests and engines, as settings spell it. Light: no numpy."""

from enum import StrEnum

TASK = "task:quantum"
"""What the quantum tasks provide, and every method of `optimization` needs."""

SAMPLERS = ("aer", "statevector", "runtime")
"""V2 samplers that have a name."""


class Alphabet(StrEnum):
    """What one parameter of a model can be."""

    BIT = "bit"
    """0 or 1: a gate off or on."""
    TERNARY = "ternary"
    """-1, 0 or 1, in two qubits; the fourth code is never prepared."""
    FIXED = "fixed"
    """Signed fixed point, two's complement."""
    ANGLE = "angle"
    """2 pi i / 2^bits: makes the model a quantum one."""


class EngineName(StrEnum):
    """What computes the distribution of measured weights."""

    AUTO = "auto"
    ANALYTIC = "analytic"
    TENSOR = "tensor"
    COMPILED = "compiled"
    REDUCED = "reduced"
    GATES = "gates"


class TestKind(StrEnum):
    """How a weight's accuracy becomes the amplitude of its flag."""

    __test__ = False  # no test case of pytest's

    SINGLE = "single"
    REPLICAS = "replicas"
    CHEBYSHEV = "chebyshev"
    AMPLITUDE_ESTIMATE = "amplitude_estimate"


class Weighting(StrEnum):
    """What each distinct pattern counts."""

    UNIFORM = "uniform"
    """The same: what a superposition of distinct patterns does."""
    MULTIPLICITY = "multiplicity"
    """As often as it occurs among the raw samples."""


class Padding(StrEnum):
    """How N samples fill a register of 2^a states."""

    EXACT = "exact"
    """N states are prepared."""
    MARK = "mark"
    """2^a states are prepared; those that are no samples carry mark 0 and are never good."""
