"""Bytes and messages that a rank has sent, by purpose and receiver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Traffic(StrEnum):
    """What a message is for; each purpose has its own stream of tags and its own counter."""

    ACTIVATION = "activation"
    """Rows of a chunk from one stage to the next."""
    GRADIENT = "gradient"
    """Their gradient, from that stage back."""
    HALO = "halo"
    """Rows of vertices that other parts have as neighbours."""
    HALO_GRADIENT = "halo_gradient"
    """The gradient of those rows, back to the part that owns them."""
    WEIGHT = "weight"
    """Weight gradients, summed over the ranks that hold copies of the weights."""
    INITIAL = "initial"
    """Gradients of an encoder that every stage computes for itself."""
    EVALUATION = "evaluation"
    """Rows and results of an exact evaluation, and scalars of the epoch's report."""

    @property
    def number(self) -> int:
        """A number of its own, for tags."""
        return list(Traffic).index(self)


TRAINING = frozenset(Traffic) - {Traffic.EVALUATION}
"""What the formulas for an epoch of training count."""


@dataclass
class ByteCounters:
    """Counts what one rank sends; receivers count nothing, so sums over ranks are exact."""

    bytes: Counter[tuple[Traffic, int]] = field(default_factory=Counter)
    """Bytes by purpose and receiving rank."""
    messages: Counter[tuple[Traffic, int]] = field(default_factory=Counter)
    """Messages by purpose and receiving rank."""

    def add(self, traffic: Traffic, peer: int, num_bytes: int) -> None:
        """Count one message."""
        self.bytes[traffic, peer] += num_bytes
        self.messages[traffic, peer] += 1

    def total(self, kinds: Iterable[Traffic] = TRAINING) -> int:
        """Return the bytes sent for these purposes."""
        wanted = set(kinds)
        return sum(count for (traffic, _), count in self.bytes.items() if traffic in wanted)

    def num_messages(self, kinds: Iterable[Traffic] = TRAINING) -> int:
        """Return the messages sent for these purposes."""
        wanted = set(kinds)
        return sum(count for (traffic, _), count in self.messages.items() if traffic in wanted)

    def by_peer(self, kinds: Iterable[Traffic] = TRAINING) -> Mapping[int, int]:
        """Return the bytes sent to each rank."""
        wanted = set(kinds)
        sums: Counter[int] = Counter()
        for (traffic, peer), count in self.bytes.items():
            if traffic in wanted:
                sums[peer] += count
        return sums
