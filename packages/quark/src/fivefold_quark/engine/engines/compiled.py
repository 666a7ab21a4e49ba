"""`compiled`: Aer's state vector over weights and address, the model as one diagonal."""

from __future__ import annotations

from ..circuits.amplification import Parts
from ..circuits.diagonals import DiagonalParts
from ..coherent import CoherentTest
from ..problem import Problem, Table
from .aer import AerEngine


class Compiled(AerEngine):
    """The circuit-level cross-check of `tensor`; never for hardware."""

    name = "compiled"
    most_qubits = 22

    def __init__(self, problem: Problem, table: Table | None = None) -> None:
        """Bind the engine; its diagonals are made once and used by every circuit."""
        super().__init__(problem, table)
        self._parts = DiagonalParts(problem.register, self.table)

    def parts_for(self, test: CoherentTest) -> tuple[Parts, CoherentTest]:
        """Return the diagonals."""
        return self._parts, test
