"""The interface of a transport: two primitives, from which collectives are made."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .counters import ByteCounters, Traffic
from .pending import Pending


class Transport(ABC):
    """One rank's end of the links to all others.

    `post` asks for a message before it is needed, `send` hands one over and goes on; there are no
    barriers. Messages between two ranks of one purpose and index arrive in the order sent.

    Attributes:
        rank: this rank, 0 … size - 1.
        size: the number of ranks.
        counters: what this rank has sent.
        waited: seconds this rank has waited for messages.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.counters = ByteCounters()
        self.waited = 0.0

    @abstractmethod
    def post(
        self, shape: Sequence[int], dtype: torch.dtype, peer: int, traffic: Traffic, index: int = 0
    ) -> Pending:
        """Ask for a message; yield what is returned where the tensor is needed.

        Args:
            shape: the tensor's shape, known to both ends.
            dtype: its type.
            peer: the rank that sends it.
            traffic: what it is for.
            index: which of the messages for that purpose, as a chunk's number.
        """

    @abstractmethod
    def send(self, tensor: Tensor, peer: int, traffic: Traffic, index: int = 0) -> None:
        """Send a tensor and go on; it must not be changed afterwards."""

    @abstractmethod
    def exchange(self, note: str) -> list[str]:
        """Return every rank's note, in order of rank: for settings, not for data; not counted."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything sent has left this rank."""

    def now(self) -> float:
        """Return this rank's clock in seconds; differences have a meaning, the origin has none."""
        return time.perf_counter()

    @abstractmethod
    def close(self) -> None:
        """Give back what the transport holds; a second call does nothing."""
