"""Acceptance that depends on a node's depth and on how its own token came about. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .topology import TreeTopology

RANK_STARTS = (0, 1, 2, 4)
"""First rank of each class: the first child, the second, the third and fourth, later ones."""
_ROUNDS = 64


@dataclass(frozen=True)
class RankedAcceptance:
    """How often the k-th child stands, by the depth and the rank of its parent.

    A token's rank is its place among the children that its own parent would have, were there as
    many as were measured; -1 if it is none of them. So ranks are a property of target and draft,
    whatever the tree: a node of the tree has the rank of its place, and a root, which ended the
    step before, one that no child of the tree had. Text that is easy to draft stays easy for a
    while, which one vector for all nodes does not know.

    Args:
        probs: by depth (0 the root; the last: so deep or deeper), by class of the parent's rank
            (the last: none), by place k of the child: the probability that the k-th child stands,
            all before it having been rejected, given that the parent stands.
        starts: first rank of each class but the last.
    """

    probs: tuple[tuple[tuple[float, ...], ...], ...]
    starts: tuple[int, ...] = RANK_STARTS

    def __post_init__(self) -> None:
        """Refuse what no draft can have.

        Raises:
            ValueError: rows that are no probabilities, or too few or too many of them.
        """
        rows = [row for rows in self.probs for row in rows]
        if not rows or any(len(rows) != self.num_classes for rows in self.probs):
            raise ValueError(f"every depth has {self.num_classes} rows")
        if len({len(row) for row in rows}) != 1 or self.starts[:1] != (0,):
            raise ValueError("rows have one length, and the first class begins at rank 0")
        if any(not 0 <= p <= 1 for row in rows for p in row):
            raise ValueError("rows hold probabilities, from 0 to 1")
        if any(sum(row) > 1 + 1e-6 for row in rows):
            raise ValueError("a row sums above 1")

    @property
    def num_classes(self) -> int:
        """Classes of ranks, that of tokens without a rank included."""
        return len(self.starts) + 1

    @property
    def width(self) -> int:
        """Children that were measured."""
        return len(self.probs[0][0])

    def class_of(self, rank: int) -> int:
        """Return the class of a rank; -1 is that of no child."""
        if rank < 0:
            return len(self.starts)
        return sum(rank >= start for start in self.starts) - 1

    def row(self, depth: int, rank_class: int) -> tuple[float, ...]:
        """Return the vector of the children of a node."""
        return self.probs[min(depth, len(self.probs) - 1)][rank_class]

    def root_row(self, roots: Sequence[float]) -> tuple[float, ...]:
        """Return the vector of the root's children.

        Args:
            roots: how often the root is of each class; sums to 1.
        """
        rows = self.probs[0]
        return tuple(
            sum(share * row[place] for share, row in zip(roots, rows, strict=True))
            for place in range(self.width)
        )

    def roots(self, topology: TreeTopology) -> tuple[float, ...]:
        """Return how often roots are of each class, in the long run of decoding with one tree.

        A step ends at a node none of whose children stands. The token emitted there, the next
        root, has the rank of a child that the tree does not have there, or none.
        """
        following = [self._ending(topology, start) for start in range(self.num_classes)]
        shares = [1 / self.num_classes] * self.num_classes
        for _ in range(_ROUNDS):
            shares = [
                sum(share * ends[rank] for share, ends in zip(shares, following, strict=True))
                for rank in range(self.num_classes)
            ]
        return tuple(shares)

    def expected_tokens(self, topology: TreeTopology) -> float:
        """Return the expected tokens of a pass, in the long run of decoding with one tree."""
        roots = self.roots(topology)
        return sum(self._chances(topology, self.root_row(roots)))

    def _chances(self, topology: TreeTopology, root_row: Sequence[float]) -> list[float]:
        """Return the chance that each node stands."""
        chances = [1.0]
        for node, parent in enumerate(topology.parents[1:], start=1):
            place = topology.child_index[node]
            row = root_row if parent == 0 else self._row_of(topology, parent)
            chances.append(chances[parent] * (row[place] if place < self.width else 0.0))
        return chances

    def _row_of(self, topology: TreeTopology, node: int) -> tuple[float, ...]:
        return self.row(topology.depths[node], self.class_of(topology.child_index[node]))

    def _ending(self, topology: TreeTopology, root_class: int) -> list[float]:
        """Return the law of the class of the token that ends a step, by the class of its root."""
        root_row = self.row(0, root_class)
        chances = self._chances(topology, root_row)
        ends = [0.0] * self.num_classes
        tails: dict[tuple[float, ...], list[list[float]]] = {}
        for node, chance in enumerate(chances):
            row = root_row if node == 0 else self._row_of(topology, node)
            if row not in tails:
                tails[row] = self._tails(row)
            missing = tails[row][min(len(topology.children[node]), self.width)]
            ends = [end + chance * share for end, share in zip(ends, missing, strict=True)]
        return ends

    def _tails(self, row: Sequence[float]) -> list[list[float]]:
        """Return the law of the class of what ends at a node, by the number of its children."""
        none = [0.0] * (self.num_classes - 1) + [max(0.0, 1 - sum(row))]
        tails = [none]
        for place in range(self.width - 1, -1, -1):
            tail = list(tails[-1])
            tail[self.class_of(place)] += row[place]
            tails.append(tail)
        return tails[::-1]
