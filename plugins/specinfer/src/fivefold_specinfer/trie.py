"""Merging: the smallest tree that holds every path of several drafts' trees.

SpecInfer, section 3 (merge-based construction). Two nodes coincide when their whole paths do. The
paper merges sets of paths; multi-step sampling needs more: a token that was drawn twice under one
node is one node of the merged tree, verified once, and two draws, each with its own law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fivefold_speculative import TokenTree
from fivefold_speculative.tree import Draws
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Trie:
    """A merged tree, and where in it the drafts' own nodes are.

    Args:
        tree: the merged tree. Its draws are sorted by level, draft and place in the draft's tree:
            an order that knows nothing of the target.
        homes: for each draft, the merged node of each of its own nodes; -1 for those left out.
    """

    tree: TokenTree
    homes: tuple[Int[Tensor, "batch own"], ...]

    def own_path(self, draft: int, path: Int[Tensor, "batch level"]) -> Int[Tensor, "batch level"]:
        """Return a path by a draft's own nodes; 0 for the root and where it is not in its tree.

        Own nodes of one merged node stand for the same text: the first will do.
        """
        home = self.homes[draft]
        same = home[:, None, :] == path[:, :, None]  # [batch, level, own]
        own = same.int().argmax(-1)
        return torch.where(path > 0, own, 0)


def merge(
    drafted: Sequence[TokenTree],
    kept: Sequence[Bool[Tensor, "batch own"]],
    levels: int,
    vocab_size: int,
    most: int | None = None,
) -> Trie:
    """Merge the trees of several drafts, level by level; nothing loops over rows or nodes.

    Args:
        drafted: one static tree a draft, all with the same root.
        kept: own nodes that take part, with each its parent.
        levels: levels below the root to merge.
        vocab_size: tokens; any bound above them.
        most: nodes that no row has more of; `None`: as many as were drafted.
    """
    roots = drafted[0].tokens[:, :1]
    batch, device = len(roots), roots.device
    spans = [[_span(tree, depth) for tree in drafted] for depth in range(1, levels + 1)]
    bound = 1 + sum(span.stop - span.start for level in spans for span in level)
    # One place more than nodes: what is no new node is written there, and cut off at the end.
    tokens = roots.new_zeros(batch, bound + 1)
    tokens[:, :1] = roots
    parents = torch.full_like(tokens, -1)
    depths = torch.zeros_like(tokens)
    homes = [_root_alone(tree) for tree in drafted]
    count = torch.ones_like(roots)
    none = torch.zeros_like(roots)
    made_under, made = [none - 1], [none]  # draw 0 stands for none
    for depth, level in enumerate(spans, start=1):
        token = torch.cat([t.tokens[:, s] for t, s in zip(drafted, level, strict=True)], 1)
        takes_part = torch.cat([k[:, s] for k, s in zip(kept, level, strict=True)], 1)
        parent = torch.cat(
            [h.gather(1, t.parents[:, s]) for h, t, s in zip(homes, drafted, level, strict=True)], 1
        )
        exists = takes_part & (parent >= 0)
        node, is_new = number(parent * vocab_size + token, exists, count)
        place = torch.where(is_new, node, bound)
        tokens.scatter_(1, place, token)
        parents.scatter_(1, place, parent)
        depths.scatter_(1, place, torch.full_like(place, depth))
        count = count + is_new.sum(1, keepdim=True)
        made_under.append(torch.where(exists, parent, -1))
        made.append(node.clamp(min=0))
        sizes = [span.stop - span.start for span in level]
        for home, span, part in zip(homes, level, torch.split(node, sizes, 1), strict=True):
            home[:, span] = part
    width = _width(count, bound if most is None else min(bound, most))
    valid = torch.arange(width, device=device) < count
    widths = [sum(span.stop - span.start for span in level) for level in spans]
    tree = TokenTree(
        tokens=torch.where(valid, tokens[:, :width], 0),
        parents=torch.where(valid, parents[:, :width], -1),
        depths=torch.where(valid, depths[:, :width], 0),
        valid=valid,
        widths=(*widths[: width - 1], 0),  # so many nodes have no more levels
        draws=Draws(torch.cat(made_under, 1), torch.cat(made, 1)),
    )
    return Trie(tree, tuple(homes))


def number(
    key: Int[Tensor, "batch some"],
    exists: Bool[Tensor, "batch some"],
    first: Int[Tensor, "batch 1"],
) -> tuple[Int[Tensor, "batch some"], Bool[Tensor, "batch some"]]:
    """Give equal keys one number, in the order in which they first come.

    Args:
        key: what is numbered, 0 or more.
        exists: entries that count.
        first: the first number of each row.

    Returns:
        The number of each entry, -1 where it does not count; and which entries are the first.
    """
    ordered, order = torch.where(exists, key, -1).sort(dim=1, stable=True)
    place = torch.arange(key.shape[1], device=key.device)
    begins = torch.ones_like(exists)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    leads = torch.where(begins, place, 0).cummax(1).values  # where each run of equals begins
    leader = torch.zeros_like(order).scatter(1, order, order.gather(1, leads))
    is_new = exists & (leader == place)
    numbers = first + is_new.cumsum(1) - 1
    return torch.where(exists, numbers.gather(1, leader), -1), is_new


def _span(tree: TokenTree, depth: int) -> slice:
    assert tree.topology is not None, "a draft's own tree is static"
    level = tree.topology.levels[depth]
    return slice(level.start, level.stop)


def _root_alone(tree: TokenTree) -> Tensor:
    home = torch.full_like(tree.tokens, -1)
    home[:, 0] = 0
    return home


def _width(count: Tensor, bound: int) -> int:
    """Return how many nodes a row to verify: the widest row's, where asking is free."""
    return int(count.max()) if count.device.type == "cpu" else bound
