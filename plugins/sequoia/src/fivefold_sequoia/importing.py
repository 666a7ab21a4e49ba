"""Trees from files: our own, and the reference's growth maps written as JSON. No torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fivefold import UserError
from fivefold_speculative import TreeTopology
from fivefold_speculative.json_files import read_json

_SETTING = "drafting.topology"
_REMEDY = (
    'write the tree as JSON, {"parents": [-1, 0, 0, 1]} or {"Successors": [[1, 2], [3], [], []]}'
)


def read_topology(path: str | Path) -> TreeTopology:
    """Read a tree: `{"parents": […]}`, or a growth map's `{"Successors": [[…], …]}`.

    The reference pickles its growth maps (`Successors` lists the children of each node); a pickle
    is refused, as opening one runs whatever it says. Nodes may come in any order; they are sorted
    breadth first, siblings as they were.

    Raises:
        UserError: a pickle, no JSON, or no tree.
    """
    try:
        record = read_json(path)
    except ValueError as error:
        raise _no_tree(str(error)) from error
    if not isinstance(record, dict) or not {"parents", "Successors"} & set(record):
        raise _no_tree(f"{path} holds neither parents nor Successors")
    trees = []
    if "parents" in record:
        trees.append(from_children(_from_parents(record["parents"], path), path))
    if "Successors" in record:
        trees.append(from_children(_from_successors(record["Successors"], path), path))
    tree = trees[0]
    if trees[-1] != tree:
        raise _no_tree(f"{path}: parents and Successors are two different trees")
    if tree.num_nodes == 1:
        raise _no_tree("a tree with nothing but a root drafts nothing")
    if isinstance(record.get("size"), int) and record["size"] != tree.num_nodes:
        raise _no_tree(f"{path} says size {record['size']}, and has {tree.num_nodes} nodes")
    return tree


def from_children(children: Sequence[Sequence[int]], path: str | Path) -> TreeTopology:
    """Return the tree in which every node has these children, sorted breadth first.

    Raises:
        UserError: no node at all, a child that is no node, has two parents, or hangs on nothing.
    """
    if not children:
        raise _no_tree(f"{path} holds no node, not even a root")
    parents, waiting, seen = [-1], deque([(0, 0)]), {0}
    while waiting:
        node, place = waiting.popleft()
        for child in children[node]:
            if not 0 <= child < len(children) or child in seen:
                raise _no_tree(f"{path}: node {child} under {node} is no node of its own")
            seen.add(child)
            waiting.append((child, len(parents)))
            parents.append(place)
    if len(seen) != len(children):
        raise _no_tree(f"{path}: {len(children) - len(seen)} nodes hang on no root")
    return TreeTopology(tuple(parents))


def _from_parents(values: Any, path: str | Path) -> list[list[int]]:
    parents = _integers(values, path)
    if not parents or parents[0] != -1:
        raise _no_tree(f"{path}: node 0 must be the root, with parent -1")
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents[1:], start=1):
        if not 0 <= parent < len(parents):
            raise _no_tree(f"{path}: node {node} has parent {parent}, which is no node")
        children[parent].append(node)
    return children


def _from_successors(rows: Any, path: str | Path) -> list[list[int]]:
    if not isinstance(rows, list):
        raise _no_tree(f"{path}: Successors is no list")
    return [_integers(row, path) for row in rows]


def _integers(values: Any, path: str | Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise _no_tree(f"{path}: nodes are no list of integers")
    return values


def _no_tree(problem: str) -> UserError:
    return UserError(f"no tree: {problem}", setting=_SETTING, remedy=_REMEDY)
