"""Parts out of reversible logic: what a quantum computer would run.

Two layouts of the same circuit:

`registers`: a data copy holds the sample itself (features, label, mark), looked up by its address,
or without an address where every pattern occurs; the model is its formula, ancillas and all.
`fused`: a data copy is its address; for each sample the model, with the sample put in, is a formula
of the weights alone, whose products are controlled by the address. No pixels, no ancillas.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from fivefold import UserError
from jaxtyping import Bool
from numpy import ndarray
from qiskit import QuantumCircuit
from qiskit.circuit.library import RYGate

from ..._words import Padding
from ..coherent import AmplitudeEstimate, CoherentTest, Damped
from ..models.angle import AngleModel
from ..problem import Table, Training
from .amplification import flip_estimates, undamped
from .diagonals import needed
from .logic import Logic, Scratch, ancillas_of, monomials, shortest_form
from .preparing import data_layer, phase_on_ones, phase_on_zero, toffoli, weight_layer

_MOST_PATTERNS = 64
"""Patterns of right copies that are flagged one by one."""


@runtime_checkable
class Copy(Protocol):
    """How one data copy is laid out and worked on, its qubits counted from 0."""

    num_qubits: int
    """Address, sample and answer."""
    empty: list[int]
    """Qubits that A leaves in superposition: those that S_0 and the data reflection look at."""
    right: list[int]
    """Qubits that are all 1 where the answer is right; the first is the model's output."""
    ancillas: int
    """Ancillas that the model borrows; all copies share them."""
    model_calls: int
    """U_M and inverses appended so far."""

    def load(self, circuit: QuantumCircuit, qubits: list[int], *, inverse: bool) -> None:
        """Append U_D, or its inverse."""

    def answer(
        self, circuit: QuantumCircuit, qubits: list[int], ancillas: list[int], *, inverse: bool
    ) -> None:
        """Append U_M and the comparison with the label, or their inverse."""


class RegisterCopy:
    """A sample in qubits: address (where needed), features, label, mark, and the answer.

    Args:
        problem: a Boolean formula or an angle model with samples.
    """

    def __init__(self, problem: Training) -> None:
        self._problem, samples = problem, problem.train
        self._model = problem.model
        count, pixels = len(samples), samples.num_features
        self._is_direct = samples.is_uniform and count == 2**pixels
        is_marked = problem.padding is Padding.MARK
        address = 0 if self._is_direct else samples.address_bits
        self._address = list(range(address))
        self._pixels = list(range(address, address + pixels))
        self._label = address + pixels
        self._mark = self._label + 1 if is_marked else None
        self._answer = self._label + 1 + is_marked
        self.num_qubits = self._answer + 1
        self.empty = [*(self._pixels if self._is_direct else self._address)]
        if isinstance(self._model, AngleModel):
            self.empty.append(self._answer)
        self.right = [self._answer] if self._mark is None else [self._answer, self._mark]
        expression, weights = problem.expression, problem.register.num_bits
        self.ancillas = 0 if expression is None else ancillas_of(expression, weights, pixels)
        self.model_calls = 0
        self._loader = self._make_loader()
        self._unloader = self._loader.inverse()

    def load(self, circuit: QuantumCircuit, qubits: list[int], *, inverse: bool) -> None:
        """Prepare the address and look the sample up, or undo it."""
        made = self._unloader if inverse else self._loader
        circuit.compose(made, qubits[: self._answer], inplace=True)

    def answer(
        self, circuit: QuantumCircuit, qubits: list[int], ancillas: list[int], *, inverse: bool
    ) -> None:
        """Compute the model's output and compare it with the label."""
        target, label = qubits[self._answer], qubits[self._label]
        features = [qubits[i] for i in self._pixels]
        if not inverse:
            self._model_on(circuit, features, target, ancillas, inverse=False)
        circuit.cx(label, target)
        circuit.x(target)
        if inverse:
            self._model_on(circuit, features, target, ancillas, inverse=True)

    def _model_on(
        self,
        circuit: QuantumCircuit,
        features: list[int],
        target: int,
        ancillas: list[int],
        *,
        inverse: bool,
    ) -> None:
        self.model_calls += 1
        weights = range(self._problem.register.num_bits)
        if self._problem.expression is not None:  # flipping the target is its own inverse
            logic = Logic(circuit, weights, features, Scratch(ancillas))
            logic.flip(self._problem.expression, target)
            return
        assert isinstance(self._model, AngleModel)
        for turn in self._model.rotations:
            controls = [turn.weight]
            controls += [] if turn.feature is None else [features[turn.feature]]
            turned = RYGate(-turn.angle if inverse else turn.angle)
            gate = turned.control(len(controls), annotated=False)
            circuit.append(gate, [*controls, target])

    def _make_loader(self) -> QuantumCircuit:
        circuit = QuantumCircuit(self._answer, name="loader")
        samples = self._problem.train
        if self._is_direct:
            circuit.h(self._pixels)
            places = 1 << np.arange(samples.num_features)
            truth = np.zeros(len(samples), dtype=np.bool_)
            truth[samples.features @ places] = samples.labels
            for product in monomials(truth):
                controls = [(q, True) for i, q in enumerate(self._pixels) if product >> i & 1]
                toffoli(circuit, controls, self._label)
            if self._mark is not None:
                circuit.x(self._mark)
            return circuit
        circuit.compose(_address_layer(self._problem), self._address, inplace=True)
        for index in range(len(samples)):
            pattern = _pattern(index, self._address)
            row = [*samples.features[index], samples.labels[index]]
            targets = [q for q, bit in zip([*self._pixels, self._label], row, strict=True) if bit]
            targets += [] if self._mark is None else [self._mark]
            for target in targets:
                toffoli(circuit, pattern, target)
        return circuit


class FusedCopy:
    """A sample as its address; U_M holds the samples, as products of weights and addresses.

    Args:
        problem: samples, and any Boolean model.
        table: its correctness, which is what U_M computes.
    """

    ancillas = 0

    def __init__(self, problem: Training, table: Table) -> None:
        self._layer = _address_layer(problem)
        self._layer_inverse = self._layer.inverse()
        self._address = list(range(self._layer.num_qubits))
        self.num_qubits = len(self._address) + 1
        self.empty = self._address
        self.right = [len(self._address)]
        self.model_calls = 0
        self._num_weights = problem.register.num_bits
        self._complemented, self._everywhere, self._products = self._forms(table)

    def load(self, circuit: QuantumCircuit, qubits: list[int], *, inverse: bool) -> None:
        """Prepare the address."""
        layer = self._layer_inverse if inverse else self._layer
        circuit.compose(layer, [qubits[i] for i in self._address], inplace=True)

    def answer(
        self, circuit: QuantumCircuit, qubits: list[int], ancillas: list[int], *, inverse: bool
    ) -> None:
        """Flip the answer where it is right: its own inverse, all products commuting."""
        self.model_calls += 1
        circuit.compose(self._answerer, [*range(self._num_weights), *qubits], inplace=True)

    @cached_property
    def _answerer(self) -> QuantumCircuit:
        """The model as gates, written once: thousands of them where there are many samples."""
        weights, first = range(self._num_weights), self._num_weights
        circuit = QuantumCircuit(first + self.num_qubits, name="model")
        target = first + self.right[0]
        if self._complemented:
            circuit.x(weights)
        for product in self._everywhere:
            toffoli(circuit, [(w, True) for w in weights if product >> w & 1], target)
        for index, products in enumerate(self._products):
            pattern = [(first + q, value) for q, value in _pattern(index, self._address)]
            for product in products:
                chosen = [(w, True) for w in weights if product >> w & 1]
                toffoli(circuit, [*chosen, *pattern], target)
        if self._complemented:
            circuit.x(weights)
        return circuit

    def _forms(self, table: Table) -> tuple[bool, list[int], list[list[int]]]:
        """Return the products of every sample, those that all samples share taken out."""
        columns = np.zeros((table.right.shape[1], 2**self._num_weights), dtype=np.bool_)
        columns[:, table.codes] = table.right.T
        shorter = [shortest_form(column)[0] for column in columns]
        complemented = 2 * sum(shorter) > len(shorter)
        forms = [set(monomials(c[::-1].copy() if complemented else c)) for c in columns]
        shared = set.intersection(*forms)
        return complemented, sorted(shared), [sorted(form - shared) for form in forms]


class LogicParts:
    """Weights, the ancillas of the model, one data copy after another, and the estimate.

    Args:
        problem: samples and a model.
        copy: the layout of one data copy.
    """

    def __init__(self, problem: Training, copy: Copy) -> None:
        self.num_weights = problem.register.num_bits
        self.layout = copy
        self._weights = weight_layer(problem.register)
        self._scratch = list(range(self.num_weights, self.num_weights + copy.ancillas))

    def qubits(self, copy: int) -> list[int]:
        """Return the qubits of a copy."""
        first = self.num_weights + self.layout.ancillas + copy * self.layout.num_qubits
        return list(range(first, first + self.layout.num_qubits))

    def estimate(self, test: CoherentTest) -> list[int]:
        """Return the qubits of the estimate and the ancilla that lowers the flag."""
        first = self.num_weights + test.copies * self.layout.num_qubits + self.layout.ancillas
        return list(range(first, first + test.extra_qubits))

    def blank(self, test: CoherentTest) -> QuantumCircuit:
        """Return an empty circuit."""
        copies = test.copies * self.layout.num_qubits
        count = self.num_weights + copies + self.layout.ancillas + test.extra_qubits
        return QuantumCircuit(count)

    def load_weights(self, circuit: QuantumCircuit, *, inverse: bool) -> None:
        """Put all settings into superposition, or undo it."""
        layer = self._weights.inverse() if inverse else self._weights
        circuit.compose(layer, range(self.num_weights), inplace=True)

    def load_data(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        """U_D on a copy, or its inverse."""
        self.layout.load(circuit, self.qubits(copy), inverse=inverse)

    def phase_on_answer(
        self, circuit: QuantumCircuit, copy: int, angle: float, *, right: bool, control: int | None
    ) -> None:
        """Compute, phase, uncompute; a phase on wrong is one on all, and its opposite on right."""
        shown = self._right(copy)
        controls = [] if control is None else [control]
        self._answer(circuit, copy, inverse=False)
        phase_on_ones(circuit, [*controls, *shown], angle if right else -angle)
        self._answer(circuit, copy, inverse=True)
        if not right and control is None:
            circuit.global_phase += angle
        elif not right:
            circuit.p(angle, controls[0])

    def phase_on_empty(
        self, circuit: QuantumCircuit, copy: int, angle: float, control: int | None
    ) -> None:
        """Multiply the empty data copy by a phase."""
        qubits = [self.qubits(copy)[i] for i in self.layout.empty]
        circuit.x(qubits)
        phase_on_ones(circuit, qubits if control is None else [control, *qubits], angle)
        circuit.x(qubits)

    def finish(self, circuit: QuantumCircuit, test: CoherentTest, *, inverse: bool) -> None:
        """Leave each copy's answer in its qubit; an estimate has read it already."""
        if isinstance(undamped(test), AmplitudeEstimate):
            return
        for copy in range(test.copies):
            self._answer(circuit, copy, inverse=inverse)

    def flip_good(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign where enough answers are right, or the estimate is high enough."""
        extra, inner = self.estimate(test), undamped(test)
        ancilla = [extra[-1]] if isinstance(test, Damped) else []
        if isinstance(inner, AmplitudeEstimate):
            flip_estimates(circuit, inner, extra[: inner.t], ancilla)
            return
        qubits, good = self.flag(test)
        if needed(inner) == inner.copies:
            phase_on_ones(circuit, qubits, math.pi)
            return
        patterns = np.flatnonzero(good[0])
        if len(patterns) > _MOST_PATTERNS:
            raise UserError(
                f"{len(patterns)} patterns of right copies are too many to flag one by one",
                setting="optimization.test.least",
                remedy="ask for all copies, or choose engine=tensor",
            )
        for pattern in patterns:
            zeros = [qubit for i, qubit in enumerate(qubits) if not pattern >> i & 1]
            if zeros:
                circuit.x(zeros)
            phase_on_ones(circuit, qubits, math.pi)
            if zeros:
                circuit.x(zeros)

    def flip_empty(self, circuit: QuantumCircuit, test: CoherentTest) -> None:
        """Flip the sign of the empty state of weights, data and estimate; the rest is 0 by then."""
        data = [self.qubits(c)[i] for c in range(test.copies) for i in self.layout.empty]
        everything = [*range(self.num_weights), *data, *self.estimate(test)]
        phase_on_zero(circuit, everything, math.pi)

    def flag(self, test: CoherentTest) -> tuple[list[int], Bool[ndarray, "code pattern"]]:
        """Return the qubits that show the flag, and which of their patterns say "up"."""
        extra, inner = self.estimate(test), undamped(test)
        if isinstance(inner, AmplitudeEstimate):
            qubits, good = extra[: inner.t], (inner.good > 0)[None]
        else:
            qubits = [qubit for copy in range(inner.copies) for qubit in self._right(copy)]
            bits = np.arange(2 ** len(qubits))[:, None] >> np.arange(len(qubits)) & 1
            right = bits.reshape(len(bits), inner.copies, -1).all(2)
            good = (right.sum(1) >= needed(inner))[None]
        if isinstance(test, Damped):
            qubits, good = [*qubits, extra[-1]], np.concatenate([np.zeros_like(good), good], 1)
        return qubits, good

    def _right(self, copy: int) -> list[int]:
        return [self.qubits(copy)[i] for i in self.layout.right]

    def _answer(self, circuit: QuantumCircuit, copy: int, *, inverse: bool) -> None:
        self.layout.answer(circuit, self.qubits(copy), self._scratch, inverse=inverse)


def _address_layer(problem: Training) -> QuantumCircuit:
    """Return the preparation of the address: N states, or all of them where pads are marked."""
    probabilities, bits = problem.probabilities, problem.train.address_bits
    if problem.padding is Padding.MARK:
        count = len(probabilities)
        pads = np.full(2**bits - count, 1 / 2**bits)
        probabilities = np.concatenate([probabilities * count / 2**bits, pads])
    return data_layer(probabilities, bits, dense=False)


def _pattern(index: int, address: list[int]) -> list[tuple[int, bool]]:
    return [(qubit, bool(index >> place & 1)) for place, qubit in enumerate(address)]
