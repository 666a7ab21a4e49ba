"""Ways of one stage swap the rows of a slot, fresh in both directions (source, section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.transport import Program, Traffic

if TYPE_CHECKING:
    from .chunked import ChunkedRank

_SLOTS = 1 << 10
"""Tags between those of two layers."""


def share_rows(
    rank: ChunkedRank,
    own: Float[Tensor, "row dim"],
    slot: int,
    layer: int,
    traffic: Traffic = Traffic.HALO,
) -> Program[Tensor]:
    """Send a slot's rows to the ways that read them, and return theirs.

    Args:
        rank: this rank.
        own: the rows of its chunk of the slot.
        slot: which of the way's chunks.
        layer: which layer, for tags.
        traffic: what the messages count as.

    Returns:
        The rows whose places are `arrivals[slot]` of the way's table; none where W = 1.
    """
    wire, takes, chunk = rank.wire, rank.table.takes[slot], rank.table.chunks[slot]
    tag, first, width = layer * _SLOTS + slot, rank.part.peers.start, own.shape[1]
    pending = [
        wire.post((count, width), own.dtype, first + way, traffic, tag)
        for way, count in takes.items()
    ]
    for way, given in chunk.gives.items():
        wire.send(own[given], first + way, traffic, tag)
    received = []
    for arrival in pending:
        rows = yield arrival
        received.append(rows)
    return torch.cat(received) if received else own.new_zeros(0, width)


def return_gradients(
    rank: ChunkedRank,
    remote: Float[Tensor, "arrival dim"],
    own: Float[Tensor, "row dim"],
    slot: int,
    layer: int,
) -> Program[None]:
    """Send the gradients of other ways' rows of a slot back to them, and add theirs to `own`.

    Args:
        rank: this rank.
        remote: gradients of the rows that `share_rows` returned, whole for this way.
        own: gradients of the chunk's own rows; what comes back is added in place.
        slot: which of the way's chunks.
        layer: which layer, for tags.
    """
    wire, takes, chunk = rank.wire, rank.table.takes[slot], rank.table.chunks[slot]
    tag, first, width = layer * _SLOTS + slot, rank.part.peers.start, own.shape[1]
    pending = {
        way: wire.post((len(given), width), own.dtype, first + way, Traffic.HALO_GRADIENT, tag)
        for way, given in chunk.gives.items()
    }
    for way, rows in zip(takes, remote.split(list(takes.values())), strict=True):
        wire.send(rows, first + way, Traffic.HALO_GRADIENT, tag)
    for way, arrival in pending.items():
        received = yield arrival
        own.index_add_(0, chunk.gives[way], received)
