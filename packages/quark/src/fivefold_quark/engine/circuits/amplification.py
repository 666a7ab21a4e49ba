"""Amplification as a circuit, written once for every way to build the parts.

A = T U_D (H on the weights), and one iteration is Q = -A S_0 A^dagger S_good. The parts (how data
are loaded, how an answer becomes a phase) come from a `Parts`: diagonals in `compiled`, reversible
logic in `gates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from fivefold import UserError
from jaxtyping import Bool
from numpy import ndarray
from qiskit import QuantumCircuit
from qiskit.circuit.library import UnitaryGate

from ..coherent import AmplitudeEstimate, Chebyshev, CoherentTest, Damped, Replicas, Single
from .preparing import phase_on_ones

Step = Callable[[], object]
"""Appends its gates to the circuit."""


@runtime_checkable
class Parts(Protocol):
    """What a circuit is put together from; qubits are numbered by the parts themselves."""

    num_weights: int
    """Qubits 0 to num_weights - 1 are the weights."""

    def blank(self, test: CoherentTest) -> QuantumCircuit:
        """Return an empty circuit with the registers that a test needs."""

    def estimate(self, test: CoherentTest) -> list[int]:
        """Return the qubits of the estimate, and last the ancilla that lowers the flag, if any."""

    def load_weights(self, circuit: QuantumCircuit, *, inverse: bool) -> None:
        """Put all settings into superposition, or undo it."""

    def load_data(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        """U_D on one data copy, or its inverse."""

    def phase_on_answer(
        self, circuit: QuantumCircuit, copy: int, angle: float, *, right: bool, control: int | None
    ) -> None:
        """Multiply right (or wrong) branches by e^{i angle}: compute, phase, uncompute."""

    def phase_on_empty(
        self, circuit: QuantumCircuit, copy: int, angle: float, control: int | None
    ) -> None:
        """Multiply the all-zero state of a data copy by e^{i angle}."""

    def finish(self, circuit: QuantumCircuit, test: CoherentTest, *, inverse: bool) -> None:
        """The last model call of A, which leaves each copy's answer where `flip_good` reads it."""

    def flip_good(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """S_good: the sign of the states in which the flag is up."""

    def flip_empty(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """S_0: the sign of the all-zero state of everything that A touches."""

    def flag(self, test: CoherentTest) -> tuple[list[int], Bool[ndarray, "code pattern"]]:
        """Return the qubits beside the weights that show the flag, and which patterns say "up".

        One row where it does not depend on the weights.
        """


def amplified(
    parts: Parts,
    test: CoherentTest,
    iterations: int,
    *,
    after: Callable[[QuantumCircuit, int], None] | None = None,
) -> QuantumCircuit:
    """Return A, then the iterations.

    Args:
        parts: what the circuit is put together from.
        test: decides what is good.
        iterations: k, 0 or more.
        after: called with the circuit and each k = 0 .. iterations, to save what stands there.
    """
    circuit = parts.blank(test)
    prepare(circuit, parts, test, inverse=False)
    for k in range(iterations + 1):
        if after is not None:
            after(circuit, k)
        if k == iterations:
            break
        parts.flip_good(circuit, test)
        prepare(circuit, parts, test, inverse=True)
        parts.flip_empty(circuit, test)
        prepare(circuit, parts, test, inverse=False)
        circuit.global_phase += math.pi  # the minus sign of Q, which no measurement sees
    return circuit


def prepare(circuit: QuantumCircuit, parts: Parts, test: CoherentTest, *, inverse: bool) -> None:
    """Append A, or its inverse: the same steps backwards, each undone."""
    copies = range(test.copies)
    steps: list[Step] = [partial(parts.load_weights, circuit, inverse=inverse)]
    steps += [partial(parts.load_data, circuit, copy, inverse=inverse) for copy in copies]
    steps += _test_steps(circuit, parts, test, inverse)
    steps.append(partial(parts.finish, circuit, test, inverse=inverse))
    for step in reversed(steps) if inverse else steps:
        step()


def _test_steps(
    circuit: QuantumCircuit, parts: Parts, test: CoherentTest, inverse: bool
) -> list[Step]:
    match test:
        case Single() | Replicas():
            return []
        case Chebyshev():
            return _filter_steps(circuit, parts, test, inverse)
        case AmplitudeEstimate():
            return _estimate_steps(circuit, parts, test, inverse)
        case Damped():
            angle = 2 * math.asin(math.sqrt(test.factor)) * (-1 if inverse else 1)
            ancilla = parts.estimate(test)[-1]
            inner = _test_steps(circuit, parts, test.test, inverse)
            return [*inner, partial(circuit.ry, angle, ancilla)]
    raise UserError(
        f"no circuit is known for {test.label}",
        setting="optimization.engine",
        remedy="choose engine=analytic",
    )


def _filter_steps(
    circuit: QuantumCircuit, parts: Parts, test: Chebyshev, inverse: bool
) -> list[Step]:
    sign = -1 if inverse else 1
    steps: list[Step] = []
    for beta, alpha in test.phases:
        wrong = partial(parts.phase_on_answer, circuit, 0, sign * beta, right=False, control=None)
        steps += [wrong, partial(_reflect, circuit, parts, -sign * alpha, None)]
    return steps


def _reflect(circuit: QuantumCircuit, parts: Parts, angle: float, control: int | None) -> None:
    """Multiply the data state U_D|0> by e^{i angle}."""
    parts.load_data(circuit, 0, inverse=True)
    parts.phase_on_empty(circuit, 0, angle, control)
    parts.load_data(circuit, 0, inverse=False)


def _estimate_steps(
    circuit: QuantumCircuit, parts: Parts, test: AmplitudeEstimate, inverse: bool
) -> list[Step]:
    """Phase estimation of the data rotation: bit j of the estimate controls 2^j rotations."""
    qubits = parts.estimate(test)[: test.t]

    def rotate(control: int) -> None:
        """Minus (1 - 2|psi><psi|)(1 - 2 right); the sign is a Z on the control."""
        turns: list[Step] = [
            partial(parts.phase_on_answer, circuit, 0, math.pi, right=True, control=control),
            partial(_reflect, circuit, parts, math.pi, control),
        ]
        for turn in reversed(turns) if inverse else turns:
            turn()
        circuit.z(control)

    matrix = np.fft.fft(np.eye(2**test.t)) / math.sqrt(2**test.t)
    transform = UnitaryGate(matrix.conj().T if inverse else matrix)
    steps: list[Step] = [partial(circuit.h, qubits)]
    for place, control in enumerate(qubits):
        steps += [partial(rotate, control)] * 2**place
    return [*steps, partial(circuit.append, transform, qubits)]


def flip_estimates(
    circuit: QuantumCircuit, test: AmplitudeEstimate, qubits: list[int], ancilla: list[int]
) -> None:
    """Flip the sign of the estimates that say "at least tau", one pattern at a time.

    Args:
        circuit: to append to.
        test: says which estimates are good.
        qubits: of the estimate.
        ancilla: further qubits that must be 1.
    """
    for y in np.flatnonzero(test.good):
        zeros = [qubit for place, qubit in enumerate(qubits) if not y >> place & 1]
        if zeros:
            circuit.x(zeros)
        phase_on_ones(circuit, [*qubits, *ancilla], math.pi)
        if zeros:
            circuit.x(zeros)


def undamped(test: CoherentTest) -> CoherentTest:
    """Return the test inside a `Damped` one, else the test itself."""
    return test.test if isinstance(test, Damped) else test
