"""One whole graph with features, labels and masks, and the checks that it must pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b, sha256

import numpy as np
import torch
from fivefold import UserError
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

_LARGEST_ID = 2**31 - 1
"""Vertex ids are hashed as 32-bit numbers."""
_MOST_CLASSES = 1 << 20
"""Classes beyond which a label is taken for a mistake, unless there are as many vertices."""


@dataclass(frozen=True)
class GraphData:
    """A graph on which one network is trained; tensors are on the CPU.

    Edges are directed, from `edge_index[0]` to `edge_index[1]`; an undirected edge stands both
    ways. There are no duplicates and no self loops: models add theirs.
    """

    x: Float[Tensor, "node feature"]
    """Features."""
    edge_index: Int[Tensor, "2 edge"]
    """Source and target of each edge."""
    y: Num[Tensor, " node"] | Num[Tensor, "node class"]
    """Classes, -1 where unknown; or 0/1 for each class where a vertex may have several."""
    train_mask: Bool[Tensor, " node"]
    """Vertices whose labels are learnt from."""
    val_mask: Bool[Tensor, " node"]
    """Vertices on which the checkpoint is chosen."""
    test_mask: Bool[Tensor, " node"]
    """Vertices on which the chosen checkpoint is judged."""
    num_classes: int
    """Classes, or labels of a multi-label graph."""
    edge_weight: Float[Tensor, " edge"] | None = None
    """Weights, if the graph has them."""
    name: str = "graph"
    """What tables call it."""
    facts: dict[str, object] = field(default_factory=dict)
    """What is printed with figures: source, hash of the input, counts."""

    @property
    def num_nodes(self) -> int:
        """Vertices."""
        return self.x.shape[0]

    @property
    def num_edges(self) -> int:
        """Directed edges."""
        return self.edge_index.shape[1]

    @property
    def num_features(self) -> int:
        """Feature columns."""
        return self.x.shape[1]

    @property
    def is_multilabel(self) -> bool:
        """Whether a vertex may have several labels."""
        return self.y.ndim == 2

    @property
    def is_undirected(self) -> bool:
        """Whether every edge stands both ways."""
        forth = self.edge_index[0] * self.num_nodes + self.edge_index[1]
        back = self.edge_index[1] * self.num_nodes + self.edge_index[0]
        return bool(torch.equal(forth.sort().values, back.sort().values))

    @property
    def labels_known(self) -> Bool[Tensor, " node"]:
        """Which vertices have a label."""
        if self.is_multilabel:
            return torch.ones(self.num_nodes, dtype=torch.bool)
        return self.y >= 0

    @cached_property
    def digest(self) -> str:
        """A hash of everything that training depends on: ranks and checkpoints compare it."""
        parts = [self.x, self.edge_index, self.y, self.train_mask, self.val_mask, self.test_mask]
        if self.edge_weight is not None:
            parts.append(self.edge_weight)
        said = sha256(str(self.num_classes).encode())
        for part in parts:
            said.update(f"{part.dtype}{tuple(part.shape)}".encode())
            said.update(np.ascontiguousarray(part.numpy()).tobytes())
        return said.hexdigest()[:16]

    def checked(self) -> GraphData:
        """Return the graph itself once it has passed every check.

        Raises:
            UserError: ids outside the graph, no vertex, features that are no numbers, lengths that
                differ, masks that overlap, labels that are none, no vertex to learn from.
        """
        count = self.num_nodes
        _require(count > 0, "the graph has no vertices", "give a graph with at least one")
        _require(count <= _LARGEST_ID, "too many vertices", f"at most {_LARGEST_ID}")
        ids = self.edge_index
        outside = ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= count)
        span = f"{int(ids.min())} to {int(ids.max())}" if ids.numel() else ""
        problem = f"edges name vertices {span}, and the graph has 0 to {count - 1}"
        _require(not outside, problem, "number vertices from 0 without gaps")
        finite = bool(torch.isfinite(self.x).all())
        _require(finite, "features hold NaN or infinity", "mend or remove these values")
        _require(
            len(self.y) == count, f"{count} rows of x and {len(self.y)} labels", "one a vertex"
        )
        self._check_weights()
        self._check_labels()
        self._check_masks()
        return self

    def _check_weights(self) -> None:
        if self.edge_weight is None:
            return
        fits = len(self.edge_weight) == self.num_edges
        _require(fits, f"{len(self.edge_weight)} weights for {self.num_edges} edges", "one an edge")
        finite = bool(torch.isfinite(self.edge_weight).all())
        _require(finite, "edge weights hold NaN or infinity", "mend or remove these values")

    def _check_labels(self) -> None:
        if self.is_multilabel:
            binary = bool(((self.y == 0) | (self.y == 1)).all())
            _require(binary, "labels of several classes must be 0 or 1", "give y [N, C] of 0 and 1")
            fits = self.y.shape[1] == self.num_classes
            _require(fits, "y has not one column a class", f"give {self.num_classes} columns")
            return
        highest, lowest = int(self.y.max()), int(self.y.min())
        problem = f"label {highest} is outside the {self.num_classes} classes"
        _require(highest < self.num_classes, problem, "number classes from 0")
        most = max(self.num_nodes, _MOST_CLASSES)
        problem = f"{self.num_classes} classes of {self.num_nodes} vertices"
        _require(self.num_classes <= most, problem, "number classes from 0 without gaps")
        _require(lowest >= -1, f"label {lowest} is negative", "mark unlabelled vertices with -1")

    def _check_masks(self) -> None:
        masks = {"train": self.train_mask, "val": self.val_mask, "test": self.test_mask}
        for name, mask in masks.items():
            fits = mask.shape == (self.num_nodes,)
            _require(fits, f"{name}_mask has not one entry a vertex", f"give {self.num_nodes}")
        overlap = int((sum(mask.int() for mask in masks.values()) > 1).sum())  # type: ignore[union-attr]
        problem = f"{overlap} vertices stand in more than one of train, val and test"
        _require(overlap == 0, problem, "let the masks be disjoint")
        learnt = bool((self.train_mask & self.labels_known).any())
        _require(learnt, "no training vertex has a label", "mend train_mask or y")

    def renamed(self, name: str, **facts: object) -> GraphData:
        """Return the same graph under another name, with more facts."""
        return replace(self, name=name, facts={**self.facts, **facts})


def hashed_masks(names: list[bytes]) -> tuple[Tensor, Tensor, Tensor]:
    """Split vertices 60/20/20 by a hash of their name: train, validation, test.

    The hash is blake2b on 64 bits, modulo 100; below 60 train, below 80 validation.
    """
    places = [int.from_bytes(blake2b(name, digest_size=8).digest(), "big") % 100 for name in names]
    place = torch.tensor(places)
    return place < 60, (place >= 60) & (place < 80), place >= 80


def clean_edges(
    edge_index: Int[Tensor, "2 edge"],
    num_nodes: int,
    *,
    undirected: bool,
    weight: Float[Tensor, " edge"] | None = None,
) -> tuple[Int[Tensor, "2 clean"], Float[Tensor, " clean"] | None]:
    """Return edges sorted, without self loops and duplicates, and both ways if wished.

    Of duplicates the first weight stands.

    Raises:
        UserError: an id outside the graph.
    """
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
        lowest, highest = int(edge_index.min()), int(edge_index.max())
        problem = (
            f"edges name vertices {lowest} to {highest}, and the graph has 0 to {num_nodes - 1}"
        )
        raise UserError(problem, setting="data.path", remedy="number vertices from 0 without gaps")
    source, target = edge_index[0].numpy(), edge_index[1].numpy()
    if undirected:
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    keys = target.astype(np.int64) * num_nodes + source
    keys[source == target] = -1
    found, first = np.unique(keys, return_index=True)
    first = first[found >= 0]
    found = found[found >= 0]
    kept = torch.from_numpy(np.stack([found % max(num_nodes, 1), found // max(num_nodes, 1)]))
    if weight is None:
        return kept, None
    both = torch.cat([weight, weight]) if undirected else weight
    return kept, both[torch.from_numpy(first)]


def _require(holds: bool, problem: str, remedy: str) -> None:
    if not holds:
        raise UserError(problem, setting="data.path", remedy=remedy)
