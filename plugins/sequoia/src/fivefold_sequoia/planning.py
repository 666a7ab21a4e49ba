"""The tree with the most expected tokens (paper, section 3): dynamic programme and best first.

Nothing here needs torch. With an acceptance vector p_1..p_B and f(v) the product of the p of the
child places on the way to node v, the expected tokens of a pass are F(T) = sum of f(v) over nodes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from fivefold_speculative import AcceptanceVector, RankedAcceptance, TreeTopology
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

_ROUNDS = 6


@dataclass(frozen=True)
class Law:
    """What children of a node stand with, by the node's state; state 0 is the root's.

    A plain acceptance vector has one state. One that tells nodes apart by depth and rank has a
    state for each, which depends on nothing but the way to the node: the programme stays exact.

    Args:
        rows: by state, by place: the probability that the child stands.
        state_of_child: by state, by place: the child's state.
    """

    rows: tuple[tuple[float, ...], ...]
    state_of_child: tuple[tuple[int, ...], ...]

    @classmethod
    def plain(cls, probs: Sequence[float], branch: int | None = None) -> Law:
        """Return the law of one vector for all nodes."""
        row = tuple(probs[:branch])
        return cls((row,), ((0,) * len(row),))

    @classmethod
    def ranked(
        cls, ranked: RankedAcceptance, roots: Sequence[float], branch: int | None = None
    ) -> Law:
        """Return the law by depth and rank, for roots that are of each class so often."""
        width = ranked.width if branch is None else min(branch, ranked.width)
        deepest, ranks = max(len(ranked.probs) - 1, 1), len(ranked.starts)
        place_class = [ranked.class_of(place) for place in range(width)]

        def under(depth: int) -> tuple[int, ...]:
            first = 1 + (min(depth + 1, deepest) - 1) * ranks
            return tuple(first + place_class[place] for place in range(width))

        states = [(depth, rank) for depth in range(1, deepest + 1) for rank in range(ranks)]
        rows = [ranked.root_row(roots), *(ranked.row(*state) for state in states)]
        children = [under(0), *(under(depth) for depth, _ in states)]
        return cls(tuple(row[:width] for row in rows), tuple(children))

    @property
    def branch(self) -> int:
        """Most children of a node."""
        return len(self.rows[0])

    @property
    def is_falling(self) -> bool:
        """Whether no child stands more often than an elder sibling, in any state."""
        return all(a >= b for row in self.rows for a, b in pairwise(row))


def best_first(law: Law, nodes: int, levels: int) -> list[tuple[int, ...]]:
    """Return the best nodes of the infinite tree, best first, each as its way from the root.

    Where no child stands more often than an elder sibling, the n best nodes by f are closed under
    parent and elder sibling: the first n are the best tree of n nodes, for every n.

    Args:
        law: a falling one.
        nodes: how many, the root included; fewer if the tree is full.
        levels: most levels, the root's included.
    """
    found: list[tuple[int, ...]] = [()]
    first = law.rows[0][0]
    ends: list[tuple[float, tuple[int, ...], int, float]]  # -f, way, parent's state, its f
    ends = [(-first, (0,), 0, 1.0)] if levels > 1 else []
    while ends and len(found) < nodes:
        loss, way, above, parent = heapq.heappop(ends)
        found.append(way)
        place = way[-1]
        if place + 1 < law.branch:
            younger = -parent * law.rows[above][place + 1]
            heapq.heappush(ends, (younger, (*way[:-1], place + 1), above, parent))
        if len(way) + 1 < levels:
            own = law.state_of_child[above][place]
            heapq.heappush(ends, (loss * law.rows[own][0], (*way, 0), own, -loss))
    return found


def tree_of(ways: Sequence[tuple[int, ...]]) -> TreeTopology:
    """Return the tree of nodes given by their ways from the root."""
    order = sorted(ways, key=lambda way: (len(way), way))
    number = {way: node for node, way in enumerate(order)}
    return TreeTopology((-1, *(number[way[:-1]] for way in order[1:])))


@dataclass(frozen=True)
class TreeTable:
    """The best trees of every size up to a number of nodes and levels.

    Args:
        law: what was planned for.
        best: expected tokens of the best tree, by state of its root, levels and nodes; minus
            infinity where there is no such tree.
        num_children: of that tree's root.
        last_size: by state, levels, children, nodes: nodes under the last of so many children.
    """

    law: Law
    best: NDArray[np.float64]
    num_children: NDArray[np.int32]
    last_size: NDArray[np.int32]

    def most_nodes(self, nodes: int, levels: int) -> int:
        """Return the most nodes, up to a number, that a tree of so many levels can have."""
        return int(np.flatnonzero(np.isfinite(self.best[0, levels, : nodes + 1]))[-1])

    def tree(self, nodes: int, levels: int) -> TreeTopology:
        """Return a tree that has best[n, l], by walking the back-pointers breadth first."""
        parents = [-1]
        waiting = deque([(0, nodes, levels, 0)])  # state, nodes and levels of a subtree; its root
        while waiting:
            state, size, level, root = waiting.popleft()
            sizes = []
            for count in range(int(self.num_children[state, level, size]), 0, -1):
                sizes.append(int(self.last_size[state, level, count, size]))
                size -= sizes[-1]
            for place, below in enumerate(reversed(sizes)):
                child = self.law.state_of_child[state][place]
                waiting.append((child, below, level - 1, len(parents)))
                parents.append(root)
        return TreeTopology(tuple(parents))


def all_best(law: Law, nodes: int, levels: int, *, fewer_levels: bool = True) -> TreeTable:
    """Plan the best trees of every size: exact for any law, also one that does not fall.

        best[1, l] = T[1, l, 0] = 1
        T[n, l, b] = max over m in 1..n-1 of  T[n-m, l, b-1] + p_b * best[m, l-1]
        best[n, l] = max over b of T[n, l, b]

    m is the size of the subtree under the b-th child. Time O(nodes^2 * levels * branch) for each
    state, vectorised over n and m; memory O(nodes * levels * branch).

    Args:
        law: what children stand with.
        nodes: most nodes, the root included.
        levels: most levels, the root's included.
        fewer_levels: plan the trees of fewer levels, too; else a law by depth is several times
            faster, as a state of one depth has a subtree of one number of levels.
    """
    states, branch = len(law.rows), law.branch
    best = np.full((states, levels + 1, nodes + 1), -np.inf)
    num_children = np.zeros((states, levels + 1, nodes + 1), dtype=np.int32)
    last_size = np.zeros((states, levels + 1, branch + 1, nodes + 1), dtype=np.int32)
    best[:, 1:, 1] = 1.0
    for level, wanted in enumerate(_wanted(law, levels, fewer_levels)):
        for state in wanted:
            with_children = np.full((branch + 1, nodes + 1), -np.inf)
            with_children[0, 1] = 1.0
            for count in range(1, branch + 1):
                chance = law.rows[state][count - 1]
                below = best[law.state_of_child[state][count - 1], level - 1]
                value = np.full(nodes + 1, -np.inf)
                np.multiply(chance, below, out=value, where=np.isfinite(below))
                total = _shifted(with_children[count - 1]) + value  # [n, m]
                size = total.argmax(1)
                last_size[state, level, count] = size
                with_children[count] = total[np.arange(nodes + 1), size]
            chosen = with_children.argmax(0)
            num_children[state, level] = chosen
            best[state, level] = with_children[chosen, np.arange(nodes + 1)]
    return TreeTable(law, best, num_children, last_size)


def _wanted(law: Law, levels: int, fewer_levels: bool) -> list[list[int]]:
    """Return, by levels of a subtree, the states its root may have; none below two levels."""
    found: list[set[int]] = [set() for _ in range(levels + 1)]
    for level in range(levels, 1, -1):
        if level == levels or fewer_levels:
            found[level].add(0)
        for state in found[level] if level > 2 else ():
            found[level - 1].update(law.state_of_child[state])
    return [sorted(states) for states in found]


def _shifted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix of values[n - m], minus infinity where n < m, without copying it."""
    size = len(values)
    padded = np.concatenate([np.full(size - 1, -np.inf), values])
    (step,) = padded.strides
    start = padded[size - 1 :]
    return as_strided(start, (size, size), (step, -step), writeable=False)


def best_tree(law: Law, nodes: int, levels: int) -> TreeTopology:
    """Return the best tree of so many nodes; of as many as fit into the levels, if those are fewer.

    Best first where the law falls, else by the dynamic programme.
    """
    if law.is_falling:
        return tree_of(best_first(law, nodes, levels))
    table = all_best(law, nodes, levels, fewer_levels=False)
    return table.tree(table.most_nodes(nodes, levels), levels)


def plan(
    acceptance: AcceptanceVector, nodes: int, levels: int, branch: int | None = None
) -> TreeTopology:
    """Return the tree with the most expected tokens for an acceptance vector.

    Where acceptance depends on the rank of a node, that of a root depends on where the tree lets
    steps end: the tree is planned for the roots of the one before, until it stays the same.

    Args:
        acceptance: the vector; its ranked form counts, if it has one.
        nodes: the root included.
        levels: most levels, the root's included.
        branch: most children of a node; `None`: as many as the vector has.
    """
    tree = best_tree(Law.plain(acceptance.probs, branch), nodes, levels)
    if acceptance.ranked is None:
        return tree
    tried = [tree]
    for _ in range(_ROUNDS):
        law = Law.ranked(acceptance.ranked, acceptance.ranked.roots(tried[-1]), branch)
        tree = best_tree(law, nodes, levels)
        if tree in tried:
            break
        tried.append(tree)
    return max(tried, key=acceptance.expected_tokens)


def smoothed(probs: Sequence[float]) -> tuple[float, ...]:
    """Return the nearest non-increasing vector, by pooling neighbours that rise."""
    pools: list[tuple[float, int]] = []
    for p in probs:
        total, count = p, 1
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    return tuple(total / count for total, count in pools for _ in range(count))
