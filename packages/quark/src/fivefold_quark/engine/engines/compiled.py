"""`compiled`: Aer's state vector over weights and address, the model as one diagonal."""

from __future__ import annotations

from functools import cached_property

from ..circuits.amplification import Parts
from ..circuits.diagonals import DiagonalParts
from ..coherent import CoherentTest
from ..problem import address_bits, is_boolean
from .aer import AerEngine


class Compiled(AerEngine):
    """The circuit-level cross-check of `tensor`; never for hardware."""

    name = "compiled"
    most_qubits = 22

    @cached_property
    def _parts(self) -> DiagonalParts:
        return DiagonalParts(self.problem.register, self.table)

    def parts_for(self, test: CoherentTest) -> tuple[Parts, CoherentTest]:
        """Return the diagonals, each made once and used by every circuit."""
        return self._parts, test

    def num_qubits(self, test: CoherentTest) -> int:
        """Return the qubits: weights, an address a copy, an answer if it is no Boolean one."""
        copy = address_bits(self.problem) + (not is_boolean(self.problem))
        return self.problem.register.num_bits + test.copies * copy + test.extra_qubits
