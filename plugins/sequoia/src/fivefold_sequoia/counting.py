"""Acceptance while decoding: counts on the device, and what they make of the vector."""

from __future__ import annotations

from dataclasses import replace

import torch
from fivefold_speculative import AcceptanceVector, RankedAcceptance, StepOutcome, TreeTopology
from jaxtyping import Bool, Int
from torch import Tensor

DOUBT = 64.0
"""Nodes that the vector planned with counts for, beside what was counted."""


class AcceptanceCounts:
    """How often children were tried at each place, and how often they stood.

    A node of the accepted path tries all its children before it ends a step, and those up to the
    one that stands otherwise; that the k-th stands is the same event in both, so every visited
    node with k children or more counts for place k. Nothing is copied to the host here.
    """

    def __init__(self, topology: TreeTopology, width: int, device: torch.device) -> None:
        """Count in a tree.

        Args:
            topology: the tree.
            width: most children of a node that are counted.
            device: where steps are counted.
        """
        self.width = width
        self.stood = torch.zeros(width, dtype=torch.long, device=device)
        self.tried = torch.zeros(width, dtype=torch.long, device=device)
        self.reshape(topology)

    def reshape(self, topology: TreeTopology) -> None:
        """Count in another tree from the next step on."""
        device = self.stood.device
        self._place = torch.tensor(topology.child_index, device=device)
        counts = torch.tensor([len(some) for some in topology.children], device=device)
        self._tries = counts[:, None] > torch.arange(self.width, device=device)  # [node, place]

    def add(self, outcome: StepOutcome, drafted: Bool[Tensor, " batch"]) -> None:
        """Count a step.

        Args:
            outcome: what stood.
            drafted: rows that had a tree; the others tried nothing.
        """
        path: Int[Tensor, "batch level"] = outcome.accepted.path
        level = torch.arange(path.shape[1], device=path.device)
        visited = (level < outcome.accepted.count[:, None]) & drafted[:, None]
        self.tried += (self._tries[path] & visited[..., None]).sum((0, 1))
        stands = (visited & (level > 0))[:, 1:]
        self.stood.index_add_(0, self._place[path[:, 1:]].flatten(), stands.flatten().long())

    def read(self) -> tuple[list[int], list[int]]:
        """Return how often each place stood and was tried: the one copy to the host."""
        both = torch.stack([self.stood, self.tried]).tolist()
        return both[0], both[1]

    def fade(self) -> None:
        """Halve what was counted, so that later steps weigh more."""
        self.stood //= 2
        self.tried //= 2


def updated(
    vector: AcceptanceVector, stood: list[int], tried: list[int], doubt: float = DOUBT
) -> AcceptanceVector:
    """Return a vector moved towards what was counted; its ranked form moves in proportion.

    Args:
        vector: what was planned with.
        stood: how often each place stood.
        tried: how often it was there to stand.
        doubt: nodes that the vector counts for.
    """
    probs = _at_most_one(
        [
            (hits + doubt * p) / (tries + doubt)
            for p, hits, tries in zip(vector.probs, stood, tried, strict=True)
        ]
    )
    if vector.ranked is None:
        return replace(vector, probs=probs, errors=())
    ratio = [new / old if old else 1.0 for new, old in zip(probs, vector.probs, strict=True)]
    rows = tuple(
        tuple(_at_most_one([p * r for p, r in zip(row, ratio, strict=True)]) for row in some)
        for some in vector.ranked.probs
    )
    ranked = RankedAcceptance(rows, vector.ranked.starts)
    return replace(vector, probs=probs, errors=(), ranked=ranked)


def _at_most_one(probs: list[float]) -> tuple[float, ...]:
    excess = max(sum(probs), 1.0)
    return tuple(p / excess for p in probs)
