"""Sums over texts that a ranked acceptance is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from .ranked import RANK_STARTS, RankedAcceptance

DEPTHS = 4
"""Depths told apart by a ranked acceptance; the last stands for all deeper ones."""
_DOUBT = 16.0
"""Positions that the plain vector counts for in each row of a ranked one."""


class RankSums:
    """Sums for a ranked acceptance: weights of parents by depth and class, and their children's.

    A path from a root at position i has read its d-th token at position i + d. Its weight there
    is the chance that all its tokens had been accepted so far, given the text.
    """

    def __init__(self, width: int) -> None:
        starts = torch.tensor(RANK_STARTS)
        rank_class = torch.bucketize(torch.arange(width), starts, right=True) - 1
        self._classes = torch.cat([rank_class, torch.tensor([len(RANK_STARTS)])])
        self._weight = torch.zeros(DEPTHS, len(RANK_STARTS) + 1, dtype=torch.float64)
        self._stood = torch.zeros(DEPTHS, len(RANK_STARTS) + 1, width, dtype=torch.float64)

    def add(self, depths: list[tuple[Tensor, Tensor, int]], first: int) -> None:
        """Count a text.

        Args:
            depths: chances to stand, law of the text's ranks, and first position of both, by depth
                of the draft.
            first: first position that counts.
        """
        deep = [depths[min(depth, len(depths) - 1)] for depth in range(DEPTHS)]
        stands, ranks, begins = (
            [one[0] for one in deep],
            [one[1] for one in deep],
            [one[2] for one in deep],
        )
        last = min(begin + len(one) for begin, one in zip(begins, stands, strict=True))
        roots = max(first, begins[0]) + 1  # a root's own rank is known from the position before
        for depth in range(DEPTHS):
            if roots + depth >= last:
                return  # a short text has no path so deep
            here = torch.arange(roots + depth, last, device=stands[0].device)
            if depth == 0:
                weight = self._of_class(ranks[0][here - 1 - begins[0]])
            else:
                came = self._of_class(ranks[depth - 1][here - 1 - begins[depth - 1]])
                came[:, -1] = 0  # nobody is deeper who was not accepted
                weight = weight[: len(here)].sum(1, keepdim=True) * came
            self._weight[depth] += weight.sum(0).cpu()
            self._stood[depth] += (weight.T @ stands[depth][here - begins[depth]]).cpu()

    def acceptance(self, plain: Tensor) -> RankedAcceptance:
        """Return the rows; those that were seldom seen lean on the plain vector."""
        rows = (self._stood + _DOUBT * plain.cpu()) / (self._weight[..., None] + _DOUBT)
        return RankedAcceptance(tuple(tuple(tuple(bounded(r)) for r in some) for some in rows))

    def _of_class(self, rank: Tensor) -> Tensor:
        classes = self._classes.to(rank.device).expand(len(rank), -1)
        size = len(RANK_STARTS) + 1
        return rank.new_zeros(len(rank), size).scatter_add_(1, classes, rank)


def bounded(probs: Tensor) -> list[float]:
    """Return probabilities as numbers, rounding taken away."""
    return [min(max(p, 0.0), 1.0) for p in (probs / max(float(probs.sum()), 1.0)).tolist()]
