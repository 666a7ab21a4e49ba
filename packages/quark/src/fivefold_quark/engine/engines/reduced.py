"""`reduced`: the weights and one flag qubit, rotated by each weight's score."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from qiskit import QuantumCircuit
from qiskit.circuit.library import UCRYGate

from ..circuits.amplification import Parts
from ..circuits.preparing import phase_on_zero, weight_layer
from ..coherent import CoherentTest, Single
from ..problem import Table
from ..weights import WeightRegister
from .aer import AerEngine


class Reduced(AerEngine):
    """n_w + 1 qubits, for large m and studies of sampling; the scores are enumerated beforehand."""

    name = "reduced"
    most_qubits = 20

    def parts_for(self, test: CoherentTest) -> tuple[Parts, CoherentTest]:
        """Return the rotation that stands for data, model and test together."""
        return RotationParts(self.problem.register, self.table, test), Single()

    def num_qubits(self, test: CoherentTest) -> int:
        """Return the qubits: weights and a flag."""
        return self.problem.register.num_bits + 1


class RotationParts:
    """Weights, and a flag that a uniformly controlled RY by 2 asin sqrt(s(w)) turns.

    Data, model and test are one rotation: there are no copies to load and no answers to read.
    """

    def __init__(self, register: WeightRegister, table: Table, test: CoherentTest) -> None:
        self.num_weights = register.num_bits
        self._layer = weight_layer(register)
        self._score = np.zeros(2**self.num_weights)
        self._score[table.codes] = np.clip(test.score(table.accuracies), 0.0, 1.0)

    def blank(self, test: CoherentTest) -> QuantumCircuit:
        """Return an empty circuit."""
        return QuantumCircuit(self.num_weights + 1)

    def estimate(self, test: CoherentTest) -> list[int]:
        """Return nothing: the score holds it."""
        return []

    def load_weights(self, circuit: QuantumCircuit, *, inverse: bool) -> None:
        """Put all settings into superposition, or undo it."""
        layer = self._layer.inverse() if inverse else self._layer
        circuit.compose(layer, range(self.num_weights), inplace=True)

    def load_data(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        """Nothing to load: the rotation holds it."""

    def phase_on_answer(
        self, circuit: QuantumCircuit, copy: int, angle: float, *, right: bool, control: int | None
    ) -> None:
        """Never asked for: the test is unrolled as `single`."""
        raise NotImplementedError

    def phase_on_empty(
        self, circuit: QuantumCircuit, copy: int, angle: float, control: int | None
    ) -> None:
        """Never asked for, likewise."""
        raise NotImplementedError

    def finish(self, circuit: QuantumCircuit, test: CoherentTest, *, inverse: bool) -> None:
        """Rotate the flag."""
        angles = 2 * np.arcsin(np.sqrt(self._score)) * (-1 if inverse else 1)
        circuit.append(UCRYGate(angles.tolist()), [self.num_weights, *range(self.num_weights)])

    def flip_good(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign where the flag is up."""
        circuit.z(self.num_weights)

    def flip_empty(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign of the state in which every qubit is 0."""
        phase_on_zero(circuit, list(range(self.num_weights + 1)), math.pi)

    def flag(self, test: CoherentTest) -> tuple[list[int], Bool[ndarray, "code pattern"]]:
        """Return the flag."""
        return [self.num_weights], np.array([[False, True]])
