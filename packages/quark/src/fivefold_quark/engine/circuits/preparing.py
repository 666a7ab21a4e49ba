"""How the weight and data registers are prepared, without resets, so that it can be undone."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Complex, Float
from numpy import ndarray
from qiskit.circuit import QuantumCircuit
from qiskit.circuit.library import UCRYGate, UniformSuperpositionGate, UnitaryGate

from ..._words import Alphabet
from ..weights import WeightRegister

DENSE_BITS = 6
"""Address qubits up to which a dense reflection prepares the data on a simulator."""


def weight_layer(register: WeightRegister) -> QuantumCircuit:
    """Return the circuit that puts every setting in use into uniform superposition.

    Codes that are not in use (the fourth of a ternary parameter) get no amplitude.
    """
    circuit = QuantumCircuit(register.num_bits, name="weights")
    for spec, first in zip(register.specs, register.offsets, strict=True):
        if spec.alphabet is Alphabet.TERNARY:  # 00, 01 and 11
            circuit.ry(2 * math.acos(math.sqrt(1 / 3)), first)
            circuit.ch(first, first + 1)
        else:
            circuit.h(range(first, first + spec.bits))
    return circuit


def data_layer(
    probabilities: Float[ndarray, " n"], num_bits: int, *, dense: bool
) -> QuantumCircuit:
    """Return the circuit that maps |0> to sum_i sqrt(p_i) |i>.

    Args:
        probabilities: of the first states; the others get no amplitude.
        num_bits: of the register.
        dense: whether a small register may be prepared by one unitary, which only a simulator runs.
    """
    circuit = QuantumCircuit(num_bits, name="data")
    padded = np.zeros(2**num_bits)
    padded[: len(probabilities)] = probabilities
    is_uniform = bool(np.ptp(probabilities) < 1e-15)
    if len(probabilities) == 1:
        return circuit
    if is_uniform and len(probabilities) == 2**num_bits:
        circuit.h(range(num_bits))
    elif dense and num_bits <= DENSE_BITS:
        circuit.append(UnitaryGate(reflection_to(np.sqrt(padded))), range(num_bits))
    elif is_uniform:
        circuit.append(UniformSuperpositionGate(len(probabilities), num_bits), range(num_bits))
    else:
        _rotations(circuit, padded)
    return circuit


def _rotations(circuit: QuantumCircuit, probabilities: Float[ndarray, " n"]) -> None:
    """Prepare sum_i sqrt(p_i) |i> qubit by qubit from the highest, each turned by those above it.

    Ours rather than `StatePreparation`, whose inverse ends Aer (0.18) with a segmentation fault.
    """
    num_bits = circuit.num_qubits
    for target in reversed(range(num_bits)):
        halves = probabilities.reshape(-1, 2, 2**target).sum(2)  # [state of those above, value]
        angles = 2 * np.arctan2(np.sqrt(halves[:, 1]), np.sqrt(halves[:, 0]))
        above = list(range(target + 1, num_bits))
        if above:
            circuit.append(UCRYGate(angles.tolist()), [target, *above])
        else:
            circuit.ry(float(angles[0]), target)


def reflection_to(amplitudes: Float[ndarray, " n"]) -> Complex[ndarray, "n n"]:
    """Return the Householder reflection that exchanges |0> and a real state; its own inverse."""
    normal = -amplitudes / np.linalg.norm(amplitudes)
    normal[0] += 1.0
    length = float(normal @ normal)
    found = np.eye(len(amplitudes), dtype=np.complex128)
    return found if length < 1e-30 else found - 2 / length * np.outer(normal, normal)


def phase_on_zero(circuit: QuantumCircuit, qubits: list[int], angle: float) -> None:
    """Multiply the state in which all these qubits are 0 by e^{i angle}."""
    circuit.x(qubits)
    phase_on_ones(circuit, qubits, angle)
    circuit.x(qubits)


def phase_on_ones(circuit: QuantumCircuit, qubits: list[int], angle: float) -> None:
    """Multiply the state in which all these qubits are 1 by e^{i angle}."""
    *controls, target = qubits
    if controls:
        circuit.mcp(angle, controls, target)
    else:
        circuit.p(angle, target)


def toffoli(circuit: QuantumCircuit, controls: list[tuple[int, bool]], target: int) -> None:
    """Flip a target where every control has its value; X gates stand around controls of value 0."""
    zeros = [qubit for qubit, value in controls if not value]
    if zeros:
        circuit.x(zeros)
    qubits = [qubit for qubit, _ in controls]
    match len(qubits):
        case 0:
            circuit.x(target)
        case 1:
            circuit.cx(qubits[0], target)
        case 2:
            circuit.ccx(*qubits, target)
        case _:
            circuit.mcx(qubits, target)
    if zeros:
        circuit.x(zeros)
