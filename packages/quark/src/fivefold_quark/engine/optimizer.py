"""The protocol of the optimization hook: a problem comes in, the best weights go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .ledger import Ledger
from .problem import Problem


@dataclass(frozen=True)
class Progress:
    """What callbacks are told, after each round."""

    round: int
    """Shots, or draws, so far."""
    k: int
    """Iterations of the last shot; 0 for classical methods."""
    tau: float
    """Accuracy that the test looked for."""
    incumbent: float
    """Best training accuracy so far."""
    ledger: Ledger
    """What was spent so far."""


@runtime_checkable
class Callback(Protocol):
    """Called after each round; a `KeyboardInterrupt` that it raises ends the search."""

    def __call__(self, progress: Progress, /) -> object:
        """Take what is told."""


@dataclass(frozen=True)
class Incumbent:
    """A setting that was the best when it was found."""

    weights: tuple[int, ...]
    """Its bits, bit 0 first."""
    accuracy: float
    """On the training samples, evaluated classically and in full."""
    ledger: Ledger
    """What had been spent."""


@dataclass
class OptimizationResult:
    """What an optimiser returns, also of a run that was cut short."""

    method: str
    weights: tuple[int, ...]
    """The best setting's bits, bit 0 first."""
    train_accuracy: float
    """Its accuracy, evaluated classically over all training samples."""
    test_accuracy: float | None
    """On the problem's test samples, where it has some."""
    ledger: Ledger
    """What was spent."""
    stopped: str
    """Why it ended: `target`, `confidence`, `patience`, `exhausted`, `budget`, `interrupted`."""
    incumbents: list[Incumbent] = field(default_factory=list)
    """Each better setting, in the order found."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only this method has: theta and k over time, histogram, plan."""

    @property
    def is_partial(self) -> bool:
        """Whether it was cut short by its user; the weights are still the best that were found."""
        return self.stopped == "interrupted"


@runtime_checkable
class Optimizer(Protocol):
    """One way to search the weights of a problem; `optimization=NAME` builds it."""

    def optimize(self, problem: Problem, callbacks: Sequence[Callback] = ()) -> OptimizationResult:
        """Search the weights that get most training samples right.

        A `KeyboardInterrupt`, also one raised by a callback, ends the search: the best weights
        found so far are returned, `stopped` is `interrupted`.

        Args:
            problem: weights and samples; asked through `evaluate_batch` alone.
            callbacks: called after each round.

        Returns:
            The best weights, and what it cost to find them.
        """
