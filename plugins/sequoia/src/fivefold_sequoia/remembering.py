"""Planned trees in the cache folder, so that a tree is planned once. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

from fivefold import UserError
from fivefold.cache import cache_folder
from fivefold.files import write_atomically
from fivefold_speculative import AcceptanceVector, TreeTopology

from .planning import plan

_FOLDER = "topologies"
_PLANNER = 1
"""Raised when the planner would plan other trees."""
_LARGE = 1024
"""Nodes from which on planning takes time that is felt."""


def planned_once(
    acceptance: AcceptanceVector,
    nodes: int,
    levels: int,
    branch: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> TreeTopology:
    """Return what `plan` returns, from the cache folder if it was planned before.

    Args:
        acceptance: see `plan`.
        nodes: see `plan`.
        levels: see `plan`.
        branch: see `plan`.
        say: told of a large tree, which takes seconds to minutes, before it is planned.
    """
    ranked = None if acceptance.ranked is None else asdict(acceptance.ranked)
    key = json.dumps([_PLANNER, acceptance.probs, ranked, nodes, levels, branch])
    folder = cache_folder() / _FOLDER
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        if path.exists():
            return TreeTopology.read(path)
    except UserError:
        pass  # a file that was damaged is planned anew
    if nodes >= _LARGE:
        say(f"planning a tree of {nodes} nodes on {levels} levels (once)")
    tree = plan(acceptance, nodes, levels, branch)
    folder.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({"schema": 1, "parents": tree.parents}) + "\n")
    return tree
