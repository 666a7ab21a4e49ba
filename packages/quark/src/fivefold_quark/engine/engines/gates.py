"""`gates`: the circuit that a quantum computer would run, registers, loader and model as gates."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from fivefold import UserError
from jaxtyping import Int
from numpy import ndarray
from qiskit import ClassicalRegister, QuantumCircuit

from ..circuits.amplification import Parts, amplified
from ..circuits.registers import FusedCopy, LogicParts, RegisterCopy
from ..coherent import CoherentTest, Single
from ..models.angle import AngleModel
from ..problem import Problem, Table, Training, address_bits
from ..samplers import BoundSampler, make_sampler
from .aer import AerEngine

_FEW_QUBITS = 22
"""Qubits up to which `auto` keeps the registers of the source."""


class Layout(StrEnum):
    """How samples sit in qubits."""

    AUTO = "auto"
    REGISTERS = "registers"
    """Features, label and mark in qubits of their own, the model as its formula."""
    FUSED = "fused"
    """The address alone; the model holds the samples."""


class Gates(AerEngine):
    """Faithful, for noise and export; without a sampler or noise it runs on Aer's state vector."""

    name = "gates"
    advice = "choose engine=tensor, or layout=fused, or fewer weights or samples"

    def __init__(
        self,
        problem: Problem,
        table: Table | None = None,
        *,
        layout: str = Layout.AUTO,
        sampler: Any = None,
        noise: Any = None,
        seed: int = 0,
    ) -> None:
        """Bind the engine.

        Args:
            problem: a model that can be written as gates, with its samples.
            table: its correctness, when it is at hand already.
            layout: a `Layout`.
            sampler: a V2 sampler, its name, or a mapping with `_target_`; real shots are drawn.
            noise: a noise model, or its settings; real shots are drawn from a noisy simulator.
            seed: of a simulated sampler's shots.

        Raises:
            UserError: a problem that is no circuit, or an unknown layout or sampler.
        """
        if not isinstance(problem, Training) or not _is_circuit(problem):
            raise UserError(
                f"the model of {problem.name} has no circuit",
                setting="optimization.engine",
                value=self.name,
                remedy="choose engine=tensor, or give a Boolean or angle model",
            )
        super().__init__(problem, table)
        self._training = problem
        self.layout = self._chosen(layout)
        self.sampler: BoundSampler | None = None
        if sampler is not None or noise is not None:
            self.sampler = make_sampler(sampler, noise, seed)

    @cached_property
    def _parts(self) -> LogicParts:
        if self.layout is Layout.REGISTERS:
            return LogicParts(self._training, RegisterCopy(self._training))
        return LogicParts(self._training, FusedCopy(self._training, self.table))

    def parts_for(self, test: CoherentTest) -> tuple[Parts, CoherentTest]:
        """Return the logic."""
        return self._parts, test

    def num_qubits(self, test: CoherentTest) -> int:
        """Return the qubits: weights, ancillas, a copy after another, an estimate."""
        if self.layout is Layout.REGISTERS:
            return int(self._parts.blank(test).num_qubits)
        copies = test.copies * (address_bits(self.problem) + 1)
        return self.problem.register.num_bits + copies + test.extra_qubits

    def circuit(self, test: CoherentTest, k: int, *, measured: bool = True) -> QuantumCircuit:
        """Return the circuit after k iterations, the weights measured into the register `w`."""
        self.check(test)
        circuit = amplified(self._parts, test, k)
        if measured:
            register = ClassicalRegister(self._parts.num_weights, "w")
            circuit.add_register(register)
            circuit.measure(range(self._parts.num_weights), register)
        return circuit

    def model_calls(self, test: CoherentTest, k: int) -> int:
        """Return how often the circuit after k iterations holds U_M or its inverse."""
        copy = self._parts.layout
        before = copy.model_calls
        amplified(self._parts, test, k)
        return copy.model_calls - before

    def sample(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> Int[ndarray, " shot"]:
        """Return the codes that shots show: of the sampler, where there is one."""
        if self.sampler is None:
            return super().sample(test, k, shots, random)
        return self.sampler.shots(("w", test, k), lambda: self.circuit(test, k), "w", shots)

    def sample_flag(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> int:
        """Return in how many shots the flag is up: of the sampler, where there is one."""
        if self.sampler is None:
            return super().sample_flag(test, k, shots, random)
        qubits, good = self._parts.flag(test)

        def circuit() -> QuantumCircuit:
            made = self.circuit(test, k, measured=False)
            register = ClassicalRegister(len(qubits), "flag")
            made.add_register(register)
            made.measure(qubits, register)
            return made

        seen = self.sampler.shots(("flag", test, k), circuit, "flag", shots)
        return int(good[0][seen].sum())

    def _chosen(self, layout: str) -> Layout:
        if layout not in set(Layout):
            raise UserError(
                "no such layout",
                setting="optimization.layout",
                value=layout,
                remedy=f"choose one of {', '.join(Layout)}",
            )
        if Layout(layout) is not Layout.AUTO:
            return Layout(layout)
        is_boolean = self._training.model.is_boolean
        if is_boolean and self._training.expression is None:
            return Layout.FUSED
        copy = RegisterCopy(self._training)
        qubits = LogicParts(self._training, copy).blank(Single()).num_qubits
        return Layout.FUSED if is_boolean and qubits > _FEW_QUBITS else Layout.REGISTERS


def _is_circuit(problem: Training) -> bool:
    """Whether a model can be written as gates: a formula, a table of a Boolean one, or angles."""
    return problem.model.is_boolean or isinstance(problem.model, AngleModel)
