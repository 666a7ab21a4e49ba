"""The ledger: every measurement and query of a run, always kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass
class Ledger:
    """What a run has spent; the honest unit of work is the model query."""

    shots_weight: int = 0
    """Measurements of the weight register."""
    shots_theta: int = 0
    """Measurements of the flag alone."""
    shots_verify: int = 0
    """Candidates verified, each once."""
    model_queries: int = 0
    """U_M and its inverse, one each; a shot after k iterations takes (2k + 1) times the test's."""
    loader_queries: int = 0
    """U_D and its inverse, one each."""
    circuit_executions: int = 0
    """Shots that ran a circuit."""
    distinct_circuits: int = 0
    """Circuits that were built: pairs of test and k."""
    classical_evals: int = 0
    """Evaluations of the model on one sample, outside the circuit."""

    @property
    def measurements(self) -> int:
        """Shots of every kind that a quantum computer would have run."""
        return self.shots_weight + self.shots_theta

    @property
    def queries(self) -> int:
        """Model queries and classical evaluations together."""
        return self.model_queries + self.classical_evals

    def copy(self) -> Ledger:
        """Return what was spent so far."""
        return Ledger(**asdict(self))

    def add(self, other: Ledger) -> None:
        """Add what another part of the run spent."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def as_dict(self) -> Mapping[str, int]:
        """Return the counters by name."""
        return asdict(self)
