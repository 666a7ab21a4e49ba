"""What the ranks tell one another of an epoch: sums, links, staleness, who was where and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.training import EpochReport
from ..engine.transport import Program, Transport, all_gather
from .rank import PipeRank, Stay

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
    stays: list[Stay]
    """When which chunk was in which stage."""
    peaks: list[int]
    """The most bytes that each rank held."""


def gather(
    wire: Transport, ranks: Sequence[PipeRank], begun: Mark, num_layers: int, peak: int
) -> Program[Gathered]:
    """Return the epoch's report on every rank.

    Args:
        wire: this rank's end.
        ranks: this rank's replicas.
        begun: clock and counters at the epoch's beginning.
        num_layers: layers of the whole network.
        peak: the most bytes that this rank has held.
    """
    seconds, waited = wire.now() - begun.time, wire.waited - begun.waited
    loss = sum(float(rank.loss) for rank in ranks) / len(ranks)
    sent = wire.counters.total() - begun.sent
    links = wire.counters.by_peer()
    row = [loss, sent, seconds, waited, peak]
    row += [links.get(peer, 0) - begun.links.get(peer, 0) for peer in range(wire.size)]
    stale = ranks[0].staleness
    for layer in range(1, num_layers + 1):
        row += stale.get(layer, (0.0, 0.0))
    for rank in ranks:
        for stay in rank.stays:
            row += [float(stay.backward), stay.chunk, stay.begin, stay.end]
    own = torch.tensor([row], dtype=torch.float64)
    rows = yield from all_gather(wire, own, [1] * wire.size, range(wire.size))
    return _read(torch.cat(rows), wire.size, num_layers)


def _read(table: Tensor, size: int, num_layers: int) -> Gathered:
    links = table[:, _FIXED : _FIXED + size]
    layers = table[:, _FIXED + size : _FIXED + size + 2 * num_layers].sum(0).reshape(-1, 2)
    report = EpochReport(
        loss=float(table[:, 0].sum()),
        bytes_sent=int(table[:, 1].sum()),
        seconds=float(table[:, 2].max()),
        seconds_waited=float(table[:, 3].max()),
        seconds_compute=float((table[:, 2] - table[:, 3]).max()),
        staleness=_distances(layers),
        links={
            f"{rank}>{peer}": int(links[rank, peer])
            for rank in range(size)
            for peer in range(size)
            if rank != peer and links[rank, peer]
        },
    )
    return Gathered(
        report, _stays(table, _FIXED + size + 2 * num_layers), table[:, 4].long().tolist()
    )


def _distances(layers: Tensor) -> list[float]:
    """Return ‖history - fresh‖ / ‖fresh‖ of each layer; nothing if it was not measured."""
    if not bool(layers[:, 1].any()):
        return []
    return [float((far / size).sqrt()) if size > 0 else 0.0 for far, size in layers.unbind(0)]


def _stays(table: Tensor, begin: int) -> list[Stay]:
    return [
        Stay(rank, bool(backward), int(chunk), start, end)
        for rank, row in enumerate(table[:, begin:].reshape(len(table), -1, 4).tolist())
        for backward, chunk, start, end in row
    ]
