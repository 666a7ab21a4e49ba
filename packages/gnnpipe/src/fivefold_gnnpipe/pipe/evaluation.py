"""An exact forward pass over the stages: every layer for all chunks before the next layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.transport import Program, Traffic
from .exchange import share_rows

if TYPE_CHECKING:
    from .chunked import ChunkedRank

_ROWS = 1 << 18
"""Tags of carried rows, beyond those of halos."""


def exact_logits(rank: ChunkedRank, *, keeps: bool) -> Program[Tensor | None]:
    """Return the scores of the way's own vertices at the last stage, `None` at the others.

    No history is read and nothing is dropped out. Sends (S - 1) · N · c · e bytes, and the ways'
    boundary rows.

    Args:
        rank: this rank.
        keeps: whether the rows that are aggregated become the history.
    """
    part, table, plan = rank.part, rank.table, rank.plan.eval()
    rows = yield from _first_rows(rank)
    initial: list[Tensor] | None = None
    if part.initial_width and not part.is_first:
        width = rows[0].shape[1] - part.initial_width
        initial = [both[:, width:] for both in rows]
        rows = [both[:, :width] for both in rows]
    elif plan.initial:
        initial = rows if part.is_first else _encoded(rank)
    for layer in part.layers:
        rows = yield from _layer(rank, layer, rows, initial, keeps)
    if part.is_last:
        scores = [_readout(rank, h, chunk.ids) for h, chunk in zip(rows, table.chunks, strict=True)]
        whole = torch.empty(
            len(table.vertices), scores[0].shape[1], dtype=scores[0].dtype, device=rank.device
        )
        for chunk, some in zip(table.chunks, scores, strict=True):
            whole[chunk.index] = some
        return whole
    for slot, h in enumerate(rows):
        if part.initial_width and initial is not None:
            h = torch.cat([h, initial[slot]], dim=1)
        rank.wire.send(h, rank.wire.rank + part.ways, Traffic.EVALUATION, _ROWS + slot)
    return None


def _first_rows(rank: ChunkedRank) -> Program[list[Tensor]]:
    part, table = rank.part, rank.table
    if part.is_first:
        return _encoded(rank)
    before = rank.wire.rank - part.ways
    pending = [
        rank.wire.post(
            (len(chunk.ids), part.in_columns), rank.dtype, before, Traffic.EVALUATION, _ROWS + slot
        )
        for slot, chunk in enumerate(table.chunks)
    ]
    rows = []
    for arrival in pending:
        received = yield arrival
        rows.append(received)
    return rows


@torch.no_grad()
def _encoded(rank: ChunkedRank) -> list[Tensor]:
    assert rank.x is not None
    return [rank.plan.encode(rank.x[chunk.index], chunk.ids) for chunk in rank.table.chunks]


@torch.no_grad()
def _readout(rank: ChunkedRank, h: Tensor, ids: Tensor) -> Tensor:
    return rank.plan.readout(h, ids)


def _layer(
    rank: ChunkedRank, number: int, rows: list[Tensor], initial: list[Tensor] | None, keeps: bool
) -> Program[list[Tensor]]:
    table, layer = rank.table, rank.layers[number]
    block = layer.block
    board = torch.empty(len(table.local), block.in_width, dtype=rank.dtype, device=rank.device)
    with torch.no_grad():
        prepared = [block.prepare(h) for h in rows]
        for chunk, some in zip(table.chunks, prepared, strict=True):
            board[chunk.place] = some
        if rank.reads_remote_features(number):
            board[table.remote_place] = block.prepare(rank.remote_features)
    if not rank.reads_remote_features(number):
        for slot, some in enumerate(prepared):
            remote = yield from share_rows(rank, some, slot, number, Traffic.EVALUATION)
            board[table.arrivals[slot]] = remote
    if keeps and layer.history is not None:
        layer.history.copy_(board)
    after = []
    with torch.no_grad():
        for slot, (chunk, h) in enumerate(zip(table.chunks, rows, strict=True)):
            h0 = initial[slot] if initial is not None else None
            after.append(layer.exact(board, chunk, h, h0))
    return after
