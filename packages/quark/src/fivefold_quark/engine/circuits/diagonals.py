"""Parts out of diagonals: a model call is one diagonal on weights and address. Simulators only.

The model is no longer logic but its table, so a circuit of this kind checks amplification and
nothing about the model; lowered to two-qubit gates a diagonal is enormous.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Complex
from numpy import ndarray
from qiskit import QuantumCircuit
from qiskit.circuit.library import DiagonalGate

from ..coherent import AmplitudeEstimate, CoherentTest, Damped, Replicas
from ..problem import Table
from ..weights import WeightRegister
from .amplification import flip_estimates, undamped
from .preparing import data_layer, phase_on_ones, phase_on_zero, weight_layer

_KEPT_ENTRIES = 2**23
"""Entries of the diagonals that are kept, some forty bytes each: a planner's tests are many."""


class DiagonalParts:
    """Weights, then a copy after another (address, and an answer for models that are not Boolean).

    Args:
        register: the weights.
        table: C over settings in use and data states.
    """

    def __init__(self, register: WeightRegister, table: Table) -> None:
        self.num_weights = register.num_bits
        samples = table.right.shape[1]
        self.address = max((samples - 1).bit_length(), 1)
        self.has_answer = not table.is_boolean
        self._weights = weight_layer(register)
        self._data = data_layer(table.probabilities, self.address, dense=True)
        self._data_inverse = self._data.inverse()
        shape = (2**self.address, 2**self.num_weights)  # an index of the state, address first
        self.right = np.zeros(shape, dtype=table.right.dtype)
        self.right[:samples, table.codes] = table.right.T
        self._kept: dict[tuple[object, ...], DiagonalGate] = {}

    def copy(self, copy: int) -> list[int]:
        """Return the address qubits of a copy."""
        first = self.num_weights + copy * (self.address + self.has_answer)
        return list(range(first, first + self.address))

    def answers(self, test: CoherentTest) -> list[int]:
        """Return the qubit of each copy that holds "right", where the model is not Boolean."""
        return [self.copy(c)[-1] + 1 for c in range(test.copies)] if self.has_answer else []

    def estimate(self, test: CoherentTest) -> list[int]:
        """Return the qubits of the estimate and the ancilla."""
        first = self.num_weights + test.copies * (self.address + self.has_answer)
        return list(range(first, first + test.extra_qubits))

    def blank(self, test: CoherentTest) -> QuantumCircuit:
        """Return an empty circuit."""
        return QuantumCircuit(self.num_qubits(test))

    def num_qubits(self, test: CoherentTest) -> int:
        """Return the size of the circuit."""
        copies = test.copies * (self.address + self.has_answer)
        return int(self.num_weights + copies + test.extra_qubits)

    def load_weights(self, circuit: QuantumCircuit, *, inverse: bool) -> None:
        """Put all settings into superposition, or undo it."""
        layer = self._weights.inverse() if inverse else self._weights
        circuit.compose(layer, range(self.num_weights), inplace=True)

    def load_data(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        """U_D on the address of a copy."""
        layer = self._data_inverse if inverse else self._data
        circuit.compose(layer, self.copy(copy), inplace=True)

    def phase_on_answer(
        self, circuit: QuantumCircuit, copy: int, angle: float, *, right: bool, control: int | None
    ) -> None:
        """Append one diagonal; where answers are probabilities, a phase between two rotations."""
        controls = [] if control is None else [control]
        if self.has_answer:
            answer = self.copy(copy)[-1] + 1
            self._answer(circuit, copy, inverse=False)
            if not right:
                circuit.x(answer)
            phase_on_ones(circuit, [*controls, answer], angle)
            if not right:
                circuit.x(answer)
            self._answer(circuit, copy, inverse=True)
            return

        def entries() -> Complex[ndarray, " state"]:
            here = np.where(self.right == right, np.exp(1j * angle), 1.0).ravel()
            return np.concatenate([np.ones_like(here), here]) if controls else here

        gate = self._gate(("phase", angle, right, bool(controls)), entries)
        circuit.append(gate, [*range(self.num_weights), *self.copy(copy), *controls])

    def phase_on_empty(
        self, circuit: QuantumCircuit, copy: int, angle: float, control: int | None
    ) -> None:
        """Multiply the empty data copy by a phase."""
        qubits = self.copy(copy)
        if self.has_answer:
            qubits.append(qubits[-1] + 1)
        circuit.x(qubits)
        phase_on_ones(circuit, qubits if control is None else [control, *qubits], angle)
        circuit.x(qubits)

    def finish(self, circuit: QuantumCircuit, test: CoherentTest, *, inverse: bool) -> None:
        """Rotate the answers of a model that is not Boolean; a table needs nothing."""
        if self.has_answer and not isinstance(undamped(test), AmplitudeEstimate):
            for copy in range(test.copies):
                self._answer(circuit, copy, inverse=inverse)

    def flip_good(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign of good states: a diagonal over all copies, or patterns of the estimate."""
        extra, inner = self.estimate(test), undamped(test)
        if isinstance(inner, AmplitudeEstimate):
            flip_estimates(circuit, inner, extra[: inner.t], extra[inner.t :])
            return
        qubits, good = self.flag(test)
        if len(good) > 1:
            qubits = [*range(self.num_weights), *qubits]

        def entries() -> Complex[ndarray, " state"]:
            return np.where(good.T.ravel(), -1.0, 1.0).astype(np.complex128)

        circuit.append(self._gate(("good", test), entries), qubits)

    def flip_empty(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign of the state in which every qubit is 0."""
        phase_on_zero(circuit, list(range(circuit.num_qubits)), math.pi)

    def flag(self, test: CoherentTest) -> tuple[list[int], Bool[ndarray, "code pattern"]]:
        """Return the qubits that show the flag, and which of their patterns say "up"."""
        extra, inner = self.estimate(test), undamped(test)
        if isinstance(inner, AmplitudeEstimate):
            qubits, good = extra[: inner.t], (inner.good > 0)[None]
        elif self.has_answer:
            qubits = self.answers(test)
            counts = np.array([index.bit_count() for index in range(2 ** len(qubits))])
            good = (counts >= needed(inner))[None]
        else:
            qubits = [qubit for copy in range(test.copies) for qubit in self.copy(copy)]
            good = self._all_right(inner)
        if isinstance(test, Damped):
            qubits, good = [*qubits, extra[-1]], np.concatenate([np.zeros_like(good), good], 1)
        return qubits, good

    def _all_right(self, test: CoherentTest) -> Bool[ndarray, "code pattern"]:
        counts = np.zeros((1, 2**self.num_weights), dtype=np.int64)
        for _ in range(test.copies):  # the last copy is the most significant
            counts = (self.right[:, None, :] + counts[None]).reshape(-1, counts.shape[1])
        return (counts >= needed(test)).T

    def _answer(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        """Rotate the answer qubit to sqrt(1 - C)|0> + sqrt(C)|1>, C of the weights and the sample.

        RY is RZ between two changes of axis, and RZ for every state at once is a diagonal.
        """
        address = self.copy(copy)
        answer = address[-1] + 1
        half = np.arcsin(np.sqrt(self.right)).ravel() * (-1 if inverse else 1)

        def entries() -> Complex[ndarray, " state"]:
            return np.concatenate([np.exp(-1j * half), np.exp(1j * half)])

        gate = self._gate(("answer", inverse), entries)
        circuit.sdg(answer)
        circuit.h(answer)
        circuit.append(gate, [*range(self.num_weights), *address, answer])
        circuit.h(answer)
        circuit.s(answer)

    def _gate(
        self, key: tuple[object, ...], entries: Callable[[], Complex[ndarray, " state"]]
    ) -> DiagonalGate:
        """Return a diagonal, made once: its construction costs more than its simulation."""
        gate = self._kept.pop(key, None)
        if gate is None:
            gate = DiagonalGate(entries().tolist())
        self._kept[key] = gate
        while len(self._kept) > 1 and self._entries() > _KEPT_ENTRIES:
            del self._kept[next(iter(self._kept))]
        return gate

    def _entries(self) -> int:
        return sum(2**gate.num_qubits for gate in self._kept.values())


def needed(test: CoherentTest) -> int:
    """Return how many copies must be right."""
    return test.threshold if isinstance(test, Replicas) else test.copies
