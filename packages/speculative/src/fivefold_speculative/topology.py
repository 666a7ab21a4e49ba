"""The shape of a static token tree: parents, and everything that follows from them. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fivefold import UserError

from .json_files import read_json

_SETTING = "drafting.topology"
_SCHEMA = 1
_SHIPPED = Path(__file__).with_name("topologies")
_REMEDY = 'give a JSON file such as {"parents": [-1, 0, 0, 1]}'


@dataclass(frozen=True)
class TreeTopology:
    """A tree of which only the shape is fixed: node 0 is the root, the last committed token.

    Nodes are sorted breadth first, so that each level is one slice and a node's children follow
    one another; siblings are tried in this order.

    Args:
        parents: the parent of each node; -1 for the root.

    Raises:
        UserError: a first node that is no root, a parent that does not come before its child, or
            nodes not sorted breadth first.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check once, on the host, what the loop then trusts."""
        if not self.parents or self.parents[0] != -1:
            raise _broken("node 0 must be the root, with parent -1")
        for node, parent in enumerate(self.parents[1:], start=1):
            if not 0 <= parent < node:
                raise _broken(f"node {node} has parent {parent}, which does not come before it")
        if any(a > b for a, b in zip(self.parents[1:], self.parents[2:], strict=False)):
            raise _broken("nodes are not sorted breadth first (parents must not decrease)")

    @classmethod
    def root(cls) -> TreeTopology:
        """The tree of plain decoding: a root and nothing under it."""
        return cls((-1,))

    @classmethod
    def chain(cls, length: int) -> TreeTopology:
        """One path of `length` drafted tokens."""
        return cls.expansion([1] * length)

    @classmethod
    def expansion(cls, widths: Sequence[int]) -> TreeTopology:
        """Every node at depth i has `widths[i]` children (SpecInfer, section 3).

        Raises:
            UserError: a width below 1, or more than 4096 nodes.
        """
        parents, level = [-1], [0]
        for width in widths:
            if width < 1:
                raise UserError(
                    "a level of the tree has no nodes",
                    setting="drafting.widths",
                    remedy="give widths of 1 or more, such as [4,2,1]",
                )
            if len(parents) + len(level) * width > _MAX_NODES:
                raise UserError(
                    f"the tree would have more than {_MAX_NODES} nodes",
                    setting="drafting.widths",
                    remedy="lower a width",
                )
            first = len(parents)
            parents += [parent for parent in level for _ in range(width)]
            level = list(range(first, len(parents)))
        return cls(tuple(parents))

    @classmethod
    def find(cls, name: str) -> TreeTopology:
        """Read a topology from a file, or one of this package's own by its name.

        Raises:
            UserError: there is neither, or the file holds no tree.
        """
        shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}
        if name not in shipped and not Path(name).exists():
            own = f"; or one of {', '.join(shipped)}" if shipped else ""
            raise UserError(
                "there is no such tree", setting=_SETTING, value=name, remedy=f"{_REMEDY}{own}"
            )
        return cls.read(shipped.get(name, Path(name)))

    @classmethod
    def read(cls, path: str | Path) -> TreeTopology:
        """Read a topology written by `write`: JSON, `{"schema": 1, "parents": [-1, 0, …]}`.

        Raises:
            UserError: the file cannot be read, is no JSON, or holds no tree.
        """
        try:
            record = read_json(path)
        except ValueError as error:
            raise _broken(str(error)) from error
        parents = record.get("parents") if isinstance(record, dict) else None
        if not isinstance(parents, list) or not all(type(parent) is int for parent in parents):
            raise _broken(f"{path} holds no list of integers named parents")
        return cls(tuple(parents))

    def write(self, path: str | Path) -> None:
        """Write the parents as JSON; everything else follows from them."""
        record = {"schema": _SCHEMA, "parents": list(self.parents)}
        Path(path).write_text(json.dumps(record) + "\n", encoding="utf-8")

    @property
    def num_nodes(self) -> int:
        """Nodes, the root included."""
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Edges between each node and the root."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @property
    def num_levels(self) -> int:
        """Levels, the root's included: the most tokens that one pass can emit."""
        return self.depths[-1] + 1

    @cached_property
    def levels(self) -> tuple[range, ...]:
        """The nodes of each depth."""
        starts = [self.depths.index(depth) for depth in range(self.num_levels)]
        ends = [*starts[1:], self.num_nodes]
        return tuple(range(start, end) for start, end in zip(starts, ends, strict=True))

    @cached_property
    def children(self) -> tuple[range, ...]:
        """The children of each node, in the order in which they are drawn and tried."""
        counts = [0] * self.num_nodes
        for parent in self.parents[1:]:
            counts[parent] += 1
        children, first = [], 1
        for count in counts:
            children.append(range(first, first + count))
            first += count
        return tuple(children)

    @cached_property
    def child_index(self) -> tuple[int, ...]:
        """The place of each node among its siblings, from 0; 0 for the root."""
        indices = (
            node - self.children[parent].start
            for node, parent in enumerate(self.parents[1:], start=1)
        )
        return (0, *indices)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The most children a node of each level has; the last is 0."""
        return tuple(max(len(self.children[node]) for node in level) for level in self.levels)

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """The nodes that have children, in order."""
        return tuple(node for node in range(self.num_nodes) if self.children[node])

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children: such a tree needs no tree attention."""
        return all(width <= 1 for width in self.widths)


_MAX_NODES = 4096


def _broken(problem: str) -> UserError:
    return UserError(f"no tree: {problem}", setting=_SETTING, remedy=_REMEDY)
