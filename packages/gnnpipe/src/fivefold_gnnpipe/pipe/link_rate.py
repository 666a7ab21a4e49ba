"""The rate of the link between the ranks that torchrun started."""

from __future__ import annotations

import torch

from ..engine.transport import DistributedTransport, Program, Traffic, run_rank

_BYTES = 4_000_000
"""Large enough that a shaped link's bucket does not matter."""
_ROUNDS = 3
_BITS, _MEGA = 8, 1e6


def measured_mbit(end: DistributedTransport) -> float:
    """Return the rate of messages from each rank to the next, in Mbit/s, the slowest rank's.

    Args:
        end: this rank's end; every rank calls.
    """
    seconds = run_rank(end, _shift(end))
    rate = _BYTES * _BITS / _MEGA / seconds
    return min(float(note) for note in end.exchange(repr(rate)))


def _shift(end: DistributedTransport) -> Program[float]:
    after, before = (end.rank + 1) % end.size, (end.rank - 1) % end.size
    rows, best = torch.zeros(_BYTES // 4), float("inf")
    for index in range(_ROUNDS):
        begin = end.now()
        pending = end.post(rows.shape, rows.dtype, before, Traffic.EVALUATION, index)
        end.send(rows, after, Traffic.EVALUATION, index)
        yield pending
        end.flush()
        best = min(best, end.now() - begin)
    return best
