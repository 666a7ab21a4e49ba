"""A rank's program: a generator that yields what it waits for and is sent what arrived.

Written so, the same code runs as one of several virtual ranks in a process, where a wait lets
another rank go on, and as one process of `torchrun`, where a wait waits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

T = TypeVar("T")


@runtime_checkable
class Pending(Protocol):
    """A message that was asked for and may not be there yet."""

    @property
    def description(self) -> str:
        """What is waited for and from whom, for errors."""
        ...

    def is_ready(self) -> bool:
        """Whether the message is there."""
        ...

    def wait(self) -> Tensor:
        """Return the message, waiting for it where it has to come from another process."""
        ...


Program = Generator[Pending, Tensor, T]
"""What a rank does: `rows = yield transport.post(…)`; its return value is the rank's result."""
