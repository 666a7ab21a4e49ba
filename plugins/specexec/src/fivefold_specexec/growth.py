"""Best-first search: the most probable continuations that a draft knows, in batches.

The score of a node is the logarithm of its path's probability under the draft, plus its depth times
the logarithm of the decay: minus the length of the path to it, edges being -log(decay * q). The K
best nodes are those that Dijkstra's algorithm settles first. It settles one at a time; here each
draft pass expands the W best nodes that can still matter.

Scores never rise along a path. So a node outside the K best known ones is outside for good, all
that is under it too, and the search is over when no node that was not expanded can have a child
that is better than the K-th best: what is known then is exact. Rows of a batch grow on their own.

Source: SpecExec, arXiv 2406.02532, section 4.2; github.com/yandex-research/specexec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fivefold_speculative import TokenTree
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torch.nn import functional

from .config import SpecExecConfig

_ASKED_EVERY = 4
"""Draft passes between two questions to an accelerator whether any row goes on."""


def asking_is_free(device: torch.device) -> bool:
    """Say whether the host can look at a number without waiting for an accelerator."""
    return device.type == "cpu"


def frontier_widths(config: SpecExecConfig) -> Iterator[int]:
    """Yield the most nodes a row that each draft pass expands; the root alone comes first.

    A shape known beforehand: after a pass, candidates are at most those left and `branch` children
    of each that was expanded, and never more than the budget holds.
    """
    candidates = 1
    for _ in range(config.most_passes):
        width = min(candidates, config.frontier)
        yield width
        candidates = min(candidates - width + width * config.branch, config.budget - 1)


@dataclass(frozen=True)
class Frontier:
    """The nodes of one draft pass.

    Args:
        tokens: of each.
        depths: of each.
        parents: the number that each one's parent was expanded as; 0: the root.
        scores: of each; -inf for padding.
        numbers: that each is expanded as, in the order of the draft passes; 0: the root.
        seen: which expanded nodes each of them sees, the root not counted, itself included.
    """

    tokens: Int[Tensor, "batch node"]
    depths: Int[Tensor, "batch node"]
    parents: Int[Tensor, "batch node"]
    scores: Float64[Tensor, "batch node"]
    numbers: Int[Tensor, "batch node"]
    seen: Bool[Tensor, "batch node expanded"]


class Growth:
    """The best nodes known so far, of each row, on their way to a tree.

    Each row has `budget` places, best first, ties in favour of those known longer: so a parent
    always comes before its children, and cutting off the end never orphans a node.

    Args:
        config: budget and limits.
        last_token: the root's token.
        active: rows that grow at all.
    """

    def __init__(
        self,
        config: SpecExecConfig,
        last_token: Int[Tensor, " batch"],
        active: Bool[Tensor, " batch"],
    ) -> None:
        batch, device = len(last_token), last_token.device
        self._config = config
        self._active = active
        self._decay = math.log(config.decay)
        self._floor = -math.inf if config.min_logp is None else config.min_logp
        self.tokens = last_token.new_zeros(batch, config.budget)
        self.tokens[:, 0] = last_token
        self.depths = torch.zeros_like(self.tokens)
        self.parents = torch.zeros_like(self.tokens)  # by the number they were expanded as
        self.expanded = torch.full_like(self.tokens, -1)  # its own such number; -1: not yet
        self.scores = torch.full(self.tokens.shape, -math.inf, dtype=torch.double, device=device)
        self.scores[:, 0] = 0
        self._widths = frontier_widths(config)
        self._passes = 0
        self._seen = torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)

    @property
    def exists(self) -> Bool[Tensor, "batch node"]:
        """Places that hold a node."""
        return self.scores > -math.inf

    def root(self) -> Frontier:
        """Return the first frontier, which the draft runs as the newest committed token."""
        next(self._widths)
        self._passes = 1
        self.expanded[:, 0] = 0
        zero = self.parents[:, :1]
        scores = torch.where(self._active[:, None], self.scores[:, :1], -math.inf)
        return Frontier(self.tokens[:, :1], zero, zero, scores, zero, self._seen)

    def frontier(self) -> Frontier | None:
        """Return the next nodes to expand, the best that can still matter; `None`: the tree stands.

        Whether any row has one is asked after each pass where asking is free, and every few
        passes elsewhere.
        """
        width = next(self._widths, 0)
        candidate = self._can_matter()
        if asking_is_free(candidate.device):
            width = min(width, int(candidate.sum(1).max()))
        elif self._passes % _ASKED_EVERY == 0 and not bool(candidate.any()):
            width = 0
        if not width:
            return None
        place = (~candidate).int().argsort(dim=1, stable=True)[:, :width]
        chosen = candidate.gather(1, place)
        first = self._seen.shape[2] + 1
        number = torch.arange(first, first + width, device=place.device).expand(len(place), -1)
        known = self.expanded.gather(1, place)
        self.expanded.scatter_(1, place, torch.where(chosen, number, known))
        parents = self.parents.gather(1, place)
        self._passes += 1
        return Frontier(
            tokens=self.tokens.gather(1, place),
            depths=self.depths.gather(1, place),
            parents=parents,
            scores=self.scores.gather(1, place).masked_fill(~chosen, -math.inf),
            numbers=number,
            seen=self._see(parents),
        )

    def add(
        self,
        frontier: Frontier,
        tokens: Int[Tensor, "batch node child"],
        logp: Float64[Tensor, "batch node child"],
    ) -> None:
        """Take the children of a frontier among the best, as far as they belong there.

        Args:
            frontier: what was expanded.
            tokens: the children of each of its nodes.
            logp: their log-probabilities under the draft.
        """
        scores = frontier.scores[:, :, None] + (logp + self._decay)  # never above the parent's
        scores = scores.masked_fill(scores < self._floor, -math.inf).flatten(1)
        best = scores.topk(min(scores.shape[1], self._config.budget - 1), dim=1)
        parent = best.indices // tokens.shape[2]  # its place in the frontier
        numbers = frontier.numbers.gather(1, parent)
        merged = torch.cat([self.scores, best.values], 1)
        self.scores, order = merged.sort(dim=1, descending=True, stable=True)
        kept = order[:, : self._config.budget]
        self.scores = self.scores[:, : self._config.budget]
        self.tokens = _merged(self.tokens, tokens.flatten(1).gather(1, best.indices), kept)
        self.depths = _merged(self.depths, frontier.depths.gather(1, parent) + 1, kept)
        self.parents = _merged(self.parents, numbers, kept)
        self.expanded = _merged(self.expanded, torch.full_like(numbers, -1), kept)

    def tree(self) -> TokenTree:
        """Return the nodes as a tree; places without a node are not valid.

        Where asking is free, places and levels that no row uses are left out.
        """
        nodes, levels = self.tokens.shape[1], min(self._passes + 1, self.tokens.shape[1])
        exists = self.exists
        if asking_is_free(exists.device):
            nodes = int(exists.sum(1).max())
            levels = int(self.depths.max()) + 1
        place = torch.arange(nodes, device=exists.device).expand(len(exists), -1)
        expanded = self.expanded[:, :nodes]
        # Where each expanded node lies; what was not expanded goes to a place that nobody reads.
        unread = self._seen.shape[2] + 1
        where = place.new_zeros(len(exists), unread + 1)
        where.scatter_(1, torch.where(expanded < 0, unread, expanded), place)
        parents = where.gather(1, self.parents[:, :nodes])
        parents[:, 0] = -1
        widths = [min(self._config.branch, self._config.budget - 1)] * (levels - 1)
        return TokenTree(
            tokens=self.tokens[:, :nodes],
            parents=parents,
            depths=self.depths[:, :nodes],
            valid=exists[:, :nodes],
            widths=(*widths, 0),
        )

    def _can_matter(self) -> Bool[Tensor, "batch node"]:
        """Say which nodes not yet expanded might have a child among the best."""
        reach = self.scores + self._decay
        better = reach > self.scores[:, -1:]  # the K-th best, -inf while there are fewer
        waiting = self.exists & (self.expanded < 0)
        return waiting & better & (reach >= self._floor) & self._active[:, None]

    def _see(self, parents: Int[Tensor, "batch node"]) -> Bool[Tensor, "batch node expanded"]:
        """Return what new nodes see: what their parents do, and themselves; keep it for theirs."""
        batch, width = parents.shape
        above = self._seen.gather(1, parents[:, :, None].expand(-1, -1, self._seen.shape[2]))
        own = torch.eye(width, dtype=torch.bool, device=parents.device).expand(batch, -1, -1)
        seen = torch.cat([above, own], 2)
        old = functional.pad(self._seen, (0, width))
        self._seen = torch.cat([old, seen], 1)
        return seen


def _merged(
    old: Int[Tensor, "batch node"], new: Int[Tensor, "batch child"], kept: Int[Tensor, "batch node"]
) -> Int[Tensor, "batch node"]:
    return torch.cat([old, new], 1).gather(1, kept)
