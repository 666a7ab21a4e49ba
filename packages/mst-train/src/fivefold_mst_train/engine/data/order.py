"""Which blocks a step trains on: the same for the same step, whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .blocks import Batch, Blocks


@dataclass(frozen=True)
class StepData:
    """What one process trains on in one step of the optimizer."""

    batches: list[Batch]
    """Its own micro-batches."""
    num_labels: int
    """Labels that count, over every process and every micro-batch."""
    num_tokens: int
    """Tokens, over every process and every micro-batch."""


@dataclass
class Order:
    """A shuffled walk through the blocks, epoch after epoch.

    The n-th block of the run is entry n mod E of the permutation of epoch n div E, which depends
    on seed and epoch alone: a resumed run needs to know its step and nothing else.
    """

    blocks: Blocks
    chosen: Sequence[int]
    """Blocks to train on."""
    batch_size: int = 1
    accumulate: int = 1
    """Micro-batches of a step."""
    seed: int = 0
    rank: int = 0
    """Which of the processes that are given different rows this is."""
    size: int = 1
    """How many there are."""
    _epochs: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)

    def step(self, step: int) -> StepData:
        """Return the data of a step, counted from 0."""
        per_micro = self.size * self.batch_size
        first = step * self.accumulate * per_micro
        order = [self._at(first + place) for place in range(self.accumulate * per_micro)]
        starts = [
            micro * per_micro + self.rank * self.batch_size for micro in range(self.accumulate)
        ]
        return StepData(
            [self.blocks.batch(order[start : start + self.batch_size]) for start in starts],
            sum(self.blocks.num_labels[block] for block in order),
            len(order) * self.blocks.seq_len,
        )

    def _at(self, place: int) -> int:
        epoch, entry = divmod(place, len(self.chosen))
        if epoch not in self._epochs:
            source = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            shuffled = torch.randperm(len(self.chosen), generator=source).tolist()
            recent = {old: kept for old, kept in self._epochs.items() if old == epoch - 1}
            self._epochs = {**recent, epoch: shuffled}
        return self.chosen[self._epochs[epoch][entry]]
