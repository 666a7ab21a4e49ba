"""What the ranks tell one another of an epoch: sums, maxima, bytes by link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .training import EpochReport
from .transport import Program, Transport, all_gather

_FIXED = 5  # loss, bytes, seconds, seconds waited, peak bytes


@dataclass(frozen=True)
class Mark:
    """A rank's clock and counters as an epoch begins."""

    time: float
    waited: float
    sent: int
    links: Mapping[int, int]


def mark(wire: Transport) -> Mark:
    """Note clock and counters."""
    counters = wire.counters
    return Mark(wire.now(), wire.waited, counters.total(), dict(counters.by_peer()))


@dataclass(frozen=True)
class Gathered:
    """An epoch, as all ranks know it."""

    report: EpochReport
    """Sums and maxima."""
    peaks: list[int]
    """The most bytes that each rank held."""
    more: Float[Tensor, "rank more"]
    """What each rank said beside."""


def gather(
    wire: Transport, begun: Mark, loss: float, peak: int, more: Sequence[float] = ()
) -> Program[Gathered]:
    """Return the epoch's report on every rank.

    Args:
        wire: this rank's end.
        begun: clock and counters at the epoch's beginning.
        loss: this rank's share of it.
        peak: the most bytes that this rank has held.
        more: other numbers, as many on every rank.
    """
    seconds, waited = wire.now() - begun.time, wire.waited - begun.waited
    sent, links = wire.counters.total() - begun.sent, wire.counters.by_peer()
    row = [loss, sent, seconds, waited, peak]
    row += [links.get(peer, 0) - begun.links.get(peer, 0) for peer in range(wire.size)]
    own = torch.tensor([[*row, *more]], dtype=torch.float64)
    rows = yield from all_gather(wire, own, [1] * wire.size, range(wire.size))
    return _read(torch.cat(rows), wire.size)


def _read(table: Tensor, size: int) -> Gathered:
    links = table[:, _FIXED : _FIXED + size]
    report = EpochReport(
        loss=float(table[:, 0].sum()),
        bytes_sent=int(table[:, 1].sum()),
        seconds=float(table[:, 2].max()),
        seconds_waited=float(table[:, 3].max()),
        seconds_compute=float((table[:, 2] - table[:, 3]).max()),
        links={
            f"{rank}>{peer}": int(links[rank, peer])
            for rank in range(size)
            for peer in range(size)
            if rank != peer and links[rank, peer]
        },
    )
    return Gathered(report, table[:, 4].long().tolist(), table[:, _FIXED + size :])
