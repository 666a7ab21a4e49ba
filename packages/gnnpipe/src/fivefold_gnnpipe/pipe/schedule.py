"""In which order chunks go through the pipeline: a new one every epoch, the same on every rank."""

from __future__ import annotations

import random


def chunk_order(seed: int, epoch: int, slots: int, *, shuffle: bool = True) -> list[int]:
    """Return the order of an epoch's slots: `order[t]` is the t-th to go forward.

    The draw depends on nothing but its arguments, so every rank has it and a resumed run too.

    Args:
        seed: the run's.
        epoch: from 0.
        slots: chunks of one way.
        shuffle: whether the order is drawn; otherwise it is 0, 1, 2, …
    """
    order = list(range(slots))
    if shuffle:
        random.Random(f"{seed}:{epoch}:chunks").shuffle(order)
    return order


def positions(order: list[int]) -> list[int]:
    """Return when each slot has its turn: the inverse of the order."""
    turn = [0] * len(order)
    for time, slot in enumerate(order):
        turn[slot] = time
    return turn
