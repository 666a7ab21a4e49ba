"""Ways of one stage swap the rows of a slot, fresh in both directions (source, section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..engine.transport import Program, Traffic

if TYPE_CHECKING:
    from .chunked import ChunkedRank

_SLOTS = 1 << 10
"""Tags between those of two layers."""


def share_rows(
    rank: ChunkedRank,
    rows: Tensor,
    slot: int,
    layer: int,
    traffic: Traffic = Traffic.HALO,
) -> Program[None]:
    """Send a slot's own rows to the ways that read them, and take theirs.

    Args:
        rank: this rank.
        rows: the layer's buffer, with the slot's own rows written.
        slot: which of the way's chunks.
        layer: which layer, for tags.
        traffic: what the messages count as.
    """
    wire, takes, chunk = rank.wire, rank.table.takes[slot], rank.table.chunks[slot]
    tag, first = layer * _SLOTS + slot, rank.part.peers.start
    pending = {
        way: wire.post((len(place), rows.shape[1]), rows.dtype, first + way, traffic, tag)
        for way, place in takes.items()
    }
    for way, given in chunk.gives.items():
        wire.send(rows[chunk.place[given]], first + way, traffic, tag)
    for way, arrival in pending.items():
        received = yield arrival
        rows.index_copy_(0, takes[way], received)


def return_gradients(rank: ChunkedRank, gradient: Tensor, slot: int, layer: int) -> Program[None]:
    """Send the gradients of other ways' rows of a slot back to them, and add what they send.

    Args:
        rank: this rank.
        gradient: the layer's gradient buffer, to which all that read those rows have added.
        slot: which of the way's chunks.
        layer: which layer, for tags.
    """
    wire, takes, chunk = rank.wire, rank.table.takes[slot], rank.table.chunks[slot]
    tag, first, width = layer * _SLOTS + slot, rank.part.peers.start, gradient.shape[1]
    pending = {
        way: wire.post((len(given), width), gradient.dtype, first + way, Traffic.HALO_GRADIENT, tag)
        for way, given in chunk.gives.items()
    }
    for way, place in takes.items():
        wire.send(gradient.index_select(0, place), first + way, Traffic.HALO_GRADIENT, tag)
        gradient.index_fill_(0, place, 0.0)
    for way, arrival in pending.items():
        received = yield arrival
        gradient.index_add_(0, chunk.place[chunk.gives[way]], received)
