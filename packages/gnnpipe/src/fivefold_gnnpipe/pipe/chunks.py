"""The chunks of one way: their rows, the rows they read, and what other ways read of them.

Chunk numbers i · K/W … (i + 1) · K/W - 1 belong to way i; the t-th of each are one slot, processed
at the same time by all ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from ..engine.edges import Edges, Rows
from ..engine.partition import Partition


@dataclass(frozen=True)
class Chunk:
    """Some vertices, and where the rows that they read lie in the way's buffers."""

    number: int
    """Its number among all chunks."""
    slot: int
    """Its number among the chunks of its way."""
    ids: Int[Tensor, " row"]
    """Its vertices, ascending."""
    index: Int[Tensor, " row"]
    """Where they stand among the way's own vertices."""
    place: Int[Tensor, " row"]
    """Where they stand in the way's buffers."""
    halo: Int[Tensor, " source"]
    """The vertices that they read, themselves included, ascending."""
    halo_place: Int[Tensor, " source"]
    """Where those stand in the way's buffers."""
    own: Int[Tensor, " row"]
    """Where its vertices stand in the halo."""
    edges: Edges
    """From positions in the halo to positions in `ids`."""
    gives: dict[int, Int[Tensor, " _"]]
    """For each other way that reads some of its vertices: which, by position in `ids`."""


@dataclass(frozen=True)
class WayTable:
    """What one way holds of the graph."""

    way: int
    """Its number."""
    vertices: Int[Tensor, " own"]
    """Its own vertices, ascending."""
    local: Int[Tensor, " local"]
    """The vertices of its buffers: its own and the remote ones that it reads, ascending."""
    slot_of: Int[Tensor, " local"]
    """The slot in which each of those is processed, here or by another way."""
    chunks: list[Chunk]
    """Its chunks, by slot."""
    takes: list[dict[int, int]]
    """By slot: how many rows each other way sends then."""
    arrivals: list[Int[Tensor, " _"]]
    """By slot: where those rows stand in the buffers, one way after the other."""

    @cached_property
    def own_place(self) -> Int[Tensor, " own"]:
        """Where the way's own vertices stand in its buffers."""
        return torch.searchsorted(self.local, self.vertices)

    @cached_property
    def remote_place(self) -> Int[Tensor, " remote"]:
        """Where the buffers keep rows of other ways."""
        own = torch.zeros(len(self.local), dtype=torch.bool, device=self.local.device)
        own[self.own_place] = True
        return torch.nonzero(~own).flatten()

    @property
    def num_slots(self) -> int:
        """Chunks of a way."""
        return len(self.chunks)


def way_table(
    edges: Edges, partition: Partition, ways: int, way: int, device: torch.device
) -> WayTable:
    """Divide one way's part of a graph into chunks.

    Args:
        edges: of the whole graph, as the model weights them.
        partition: a chunk number for every vertex.
        ways: ways, a divisor of the number of chunks.
        way: which of them.
        device: where rows are computed.
    """
    slots = partition.count // ways
    way_of, slot_of = partition.parts // slots, partition.parts % slots
    source, target = edges.edge_index
    reader = way_of[target]
    own = torch.nonzero(way_of == way).flatten()
    crosses = way_of[source] != reader
    read = torch.unique(source[crosses & (reader == way)])
    given = {
        other: torch.unique(source[crosses & (reader == other) & (way_of[source] == way)])
        for other in range(ways)
        if other != way
    }
    local = torch.unique(torch.cat([own, read]))
    takes, arrivals = [], []
    for slot in range(slots):
        now = read[slot_of[read] == slot]
        now = now[way_of[now].argsort(stable=True)]
        owners, counts = way_of[now].unique(return_counts=True)
        takes.append(dict(zip(owners.tolist(), counts.tolist(), strict=True)))
        arrivals.append(torch.searchsorted(local, now).to(device))
    chunks = []
    for slot in range(slots):
        number = way * slots + slot
        rows = edges.rows(partition.members(number))
        chunks.append(_chunk(number, slot, rows, own, local, given, partition, device))
    places = (own.to(device), local.to(device), slot_of[local].to(device))
    return WayTable(way, *places, chunks, takes, arrivals)


def _chunk(
    number: int,
    slot: int,
    rows: Rows,
    own: Tensor,
    local: Tensor,
    given: dict[int, Tensor],
    partition: Partition,
    device: torch.device,
) -> Chunk:
    gives = {}
    for other, vertices in given.items():
        mine = vertices[partition.parts[vertices] == number]
        if len(mine):
            gives[other] = torch.searchsorted(rows.ids, mine).to(device)
    return Chunk(
        number=number,
        slot=slot,
        ids=rows.ids.to(device),
        index=torch.searchsorted(own, rows.ids).to(device),
        place=torch.searchsorted(local, rows.ids).to(device),
        halo=rows.halo.to(device),
        halo_place=torch.searchsorted(local, rows.halo).to(device),
        own=rows.own.to(device),
        edges=rows.edges.to(device),
        gives=gives,
    )


@dataclass(frozen=True)
class Turn:
    """What a chunk reads when its turn comes, in one epoch's order."""

    stale: Int[Tensor, " stale"]
    """Positions in the halo whose turn comes later: read from the history."""
    same: Int[Tensor, " same"]
    """Positions whose turn is now: its own rows, and those of other ways in the same slot."""
    earlier: Int[Tensor, " earlier"]
    """Positions whose turn was before: fresh, and their gradient crosses chunks."""


def turns_of(table: WayTable, turn_of_slot: list[int]) -> list[Turn]:
    """Sort every chunk's halo by turn, for one epoch's order.

    Args:
        table: the way's chunks.
        turn_of_slot: when each slot has its turn.

    Returns:
        One entry a slot.
    """
    turns = torch.tensor(turn_of_slot, device=table.slot_of.device)
    of_row = turns[table.slot_of]
    found = []
    for chunk in table.chunks:
        when, now = of_row[chunk.halo_place], turn_of_slot[chunk.slot]
        found.append(
            Turn(
                torch.nonzero(when > now).flatten(),
                torch.nonzero(when == now).flatten(),
                torch.nonzero(when < now).flatten(),
            )
        )
    return found
