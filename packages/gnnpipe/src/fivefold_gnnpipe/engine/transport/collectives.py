"""Collectives of sends and receives: counted to the byte, the same sums on every transport."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Transport
from .counters import Traffic
from .pending import Program


def ring_all_reduce(
    transport: Transport, values: Tensor, ranks: Sequence[int], traffic: Traffic
) -> Program[Tensor]:
    """Return the sum of a tensor over some ranks; each gets the same bits.

    A ring: the tensor is cut into as many segments as ranks; a segment is summed on its way once
    around, then handed around. Together the ranks send 2 (W - 1) times the tensor's bytes, and the
    order of each sum is fixed by the ranks' order, whatever arrives first.

    Args:
        transport: this rank's end.
        values: this rank's part, of any shape; it is not changed.
        ranks: those that take part, in the order of the ring; all call with the same.
        traffic: what the messages count as.

    Returns:
        The sum, shaped as `values`.
    """
    width = len(ranks)
    if width == 1:
        return values.clone()
    place = list(ranks).index(transport.rank)
    after, before = ranks[(place + 1) % width], ranks[(place - 1) % width]
    total = values.detach().reshape(-1).clone()
    segments = list(torch.tensor_split(total, width))
    for step in range(2 * (width - 1)):
        outgoing = segments[(place - step) % width]
        incoming = segments[(place - step - 1) % width]
        pending = transport.post(incoming.shape, incoming.dtype, before, traffic, step)
        transport.send(outgoing.clone(), after, traffic, step)
        received = yield pending
        if step < width - 1:
            incoming.add_(received)
        else:
            incoming.copy_(received)
    return total.reshape(values.shape)


def all_gather(
    transport: Transport,
    values: Tensor,
    rows: Sequence[int],
    ranks: Sequence[int],
    traffic: Traffic = Traffic.EVALUATION,
) -> Program[list[Tensor]]:
    """Return every rank's tensor, in the order of `ranks`.

    Args:
        transport: this rank's end.
        values: this rank's tensor, [rows of this rank, …]; all agree in the other axes.
        rows: the number of rows of every rank's tensor.
        ranks: those that take part.
        traffic: what the messages count as.
    """
    others = [(rank, count) for rank, count in zip(ranks, rows, strict=True)]
    pending = {
        rank: transport.post((count, *values.shape[1:]), values.dtype, rank, traffic)
        for rank, count in others
        if rank != transport.rank
    }
    for rank in pending:
        transport.send(values, rank, traffic)
    gathered = []
    for rank in ranks:
        if rank == transport.rank:
            gathered.append(values)
        else:
            received = yield pending[rank]
            gathered.append(received)
    return gathered
