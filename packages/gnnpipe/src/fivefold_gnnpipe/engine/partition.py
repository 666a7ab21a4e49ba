"""Parts of a graph: METIS, a breadth-first order, chance, runs of ids, or a file.

Which vertices stand together decides what graph parallelism sends (`boundary`) and how much of a
chunk's neighbourhood lies in other chunks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from fivefold import UserError
from jaxtyping import Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from .._words import Balance, Split
from ..config import PartitionConfig

try:
    import pymetis
except ImportError:  # no wheel for this platform: `bfs` stands in
    pymetis = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)
_UNEVEN = 1.3
"""Largest part over mean part above which a warning is given."""


@dataclass(frozen=True)
class Partition:
    """A part number for every vertex."""

    parts: Int[Tensor, " node"]
    """The part of each vertex, 0 to `count - 1`."""
    count: int
    """Parts; none is empty."""
    method: str = "given"
    """How it was made."""

    @cached_property
    def _grouped(self) -> tuple[Tensor, list[int]]:
        sizes = torch.bincount(self.parts, minlength=self.count)
        return self.parts.argsort(stable=True), sizes.tolist()

    @cached_property
    def digest(self) -> str:
        """A short hash of the part numbers."""
        return sha256(self.parts.numpy().tobytes()).hexdigest()[:16]

    def members(self, part: int) -> Int[Tensor, " member"]:
        """Return a part's vertices, ascending."""
        order, sizes = self._grouped
        begin = sum(sizes[:part])
        return order[begin : begin + sizes[part]]

    def grouped(self, groups: int) -> Partition:
        """Return runs of parts as fewer, larger parts: the ways of a hybrid.

        Args:
            groups: a divisor of `count`.
        """
        size = self.count // groups
        return Partition(self.parts // size, groups, self.method)


def make_partition(
    config: PartitionConfig,
    edge_index: Int[Tensor, "2 edge"],
    num_nodes: int,
    count: int,
    setting: str = "training.chunks",
) -> Partition:
    """Divide a graph's vertices into parts.

    Args:
        config: method, balance, seed, file.
        edge_index: edges in any direction; loops and duplicates do no harm.
        num_nodes: vertices.
        count: parts.
        setting: what decides their number, for errors.

    Raises:
        UserError: more parts than vertices, no pymetis where it is asked for by name, or a file
            that does not hold one part number a vertex.
    """
    if count > num_nodes:
        raise UserError(
            f"{count} parts of a graph of {num_nodes} vertices",
            setting=setting,
            value=count,
            remedy="give at most one a vertex",
        )
    method = _available(config.method)
    if count == 1 and method is not Split.FILE:
        return Partition(torch.zeros(num_nodes, dtype=torch.int64), 1, method.value)
    graph = _symmetric(edge_index, num_nodes)
    if method is Split.METIS:
        parts = _metis(graph, count, config)
    elif method is Split.BFS:
        parts = _breadth_first(graph, count, config.balance)
    elif method is Split.RANDOM:
        parts = _cut(np.random.default_rng(config.seed).permutation(num_nodes), count)
    elif method is Split.CONTIGUOUS:
        parts = _cut(np.arange(num_nodes), count)
    else:
        parts = _from_file(config.file, num_nodes, count)
    partition = Partition(torch.from_numpy(_none_empty(parts, count)), count, method.value)
    _warn_if_uneven(partition, graph)
    return partition


def best_partition(
    config: PartitionConfig,
    edge_index: Int[Tensor, "2 edge"],
    num_nodes: int,
    count: int,
    setting: str = "training.ways",
) -> Partition:
    """Divide a graph for graph parallelism: with `balance=auto`, what sends least is taken."""
    if config.balance is not Balance.AUTO:
        return make_partition(config, edge_index, num_nodes, count, setting)
    tried = [
        make_partition(
            PartitionConfig(config.method, balance, config.seed, config.file),
            edge_index,
            num_nodes,
            count,
            setting,
        )
        for balance in (Balance.NODES, Balance.EDGES)
    ]
    return min(tried, key=lambda partition: boundary(partition, edge_index))


def nested_partition(
    config: PartitionConfig,
    edge_index: Int[Tensor, "2 edge"],
    num_nodes: int,
    groups: int,
    count: int,
) -> Partition:
    """Divide a graph into groups that send one another little, and each group into parts.

    Numbers of a file are taken as they are. Where a group would hold fewer vertices than parts, the
    whole graph is divided at once, and a group is a run of parts.

    Args:
        config: method, balance, seed, file.
        edge_index: edges.
        num_nodes: vertices.
        groups: a divisor of `count`; parts i · count / groups … belong to group i.
        count: parts.
    """
    if groups == 1 or config.method is Split.FILE:
        return make_partition(config, edge_index, num_nodes, count)
    outer = best_partition(config, edge_index, num_nodes, groups)
    if int(torch.bincount(outer.parts).min()) < count // groups:
        return make_partition(config, edge_index, num_nodes, count)
    inside = outer.parts[edge_index[0]] == outer.parts[edge_index[1]]
    parts, place = torch.empty_like(outer.parts), torch.empty_like(outer.parts)
    for group in range(groups):
        members = outer.members(group)
        place[members] = torch.arange(len(members))
        own = edge_index[:, inside & (outer.parts[edge_index[0]] == group)]
        inner = make_partition(config, place[own], len(members), count // groups)
        parts[members] = group * (count // groups) + inner.parts
    return Partition(parts, count, outer.method)


def boundary(partition: Partition, edge_index: Int[Tensor, "2 edge"]) -> int:
    """Return B, the number of (vertex, other part that reads it) pairs.

    Each is one row that graph parallelism sends forward and one gradient that comes back, in
    every layer.
    """
    source, target = edge_index
    reader = partition.parts[target]
    crosses = partition.parts[source] != reader
    pairs = source[crosses] * partition.count + reader[crosses]
    return int(torch.unique(pairs).numel())


def imbalance(partition: Partition, edge_index: Int[Tensor, "2 edge"]) -> tuple[float, float]:
    """Return the largest part over the mean one: by vertices, by edges that point into it."""
    nodes = torch.bincount(partition.parts, minlength=partition.count).double()
    edges = torch.bincount(partition.parts[edge_index[1]], minlength=partition.count).double()
    by_edges = float(edges.max() / edges.mean()) if edges.sum() else 1.0
    return float(nodes.max() / nodes.mean()), by_edges


def has_metis() -> bool:
    """Whether pymetis is installed."""
    return pymetis is not None


def _available(method: Split) -> Split:
    if method is Split.METIS and not has_metis():
        raise UserError(
            "pymetis is not installed",
            setting="training.partition.method",
            value=method.value,
            remedy="pip install pymetis, or set training.partition.method=bfs",
        )
    if method is not Split.AUTO:
        return method
    if not has_metis():
        _log.warning("pymetis is not installed: parts are cut from a breadth-first order")
    return Split.METIS if has_metis() else Split.BFS


def _symmetric(edge_index: Tensor, num_nodes: int) -> csr_array:
    """Return the pattern both ways, without loops and duplicates: METIS crashes on others."""
    source, target = edge_index.numpy()
    proper = source != target
    ends = np.concatenate([source[proper], target[proper]])
    others = np.concatenate([target[proper], source[proper]])
    ones = np.ones(len(ends), dtype=np.int8)
    graph = csr_array((ones, (ends, others)), shape=(num_nodes, num_nodes), dtype=np.int8)
    graph.sum_duplicates()
    return graph


def _metis(graph: csr_array, count: int, config: PartitionConfig) -> np.ndarray:
    weights = np.diff(graph.indptr) + 1 if config.balance is not Balance.NODES else None
    _, parts = pymetis.part_graph(
        count,
        adjacency=pymetis.CSRAdjacency(graph.indptr, graph.indices),
        vweights=weights,
        recursive=False,
        options=pymetis.Options(seed=config.seed),
    )
    return np.asarray(parts, dtype=np.int64)


def _breadth_first(graph: csr_array, count: int, balance: Balance) -> np.ndarray:
    order = reverse_cuthill_mckee(graph.tocsr(), symmetric_mode=True)
    weights = np.diff(graph.indptr) + 1 if balance is not Balance.NODES else None
    return _cut(np.asarray(order), count, weights)


def _cut(order: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Cut an order of vertices into runs of equal weight."""
    in_order = weights[order].astype(np.int64) if weights is not None else np.ones(len(order), int)
    middle = np.cumsum(in_order) - (in_order + 1) // 2
    parts = np.empty(len(order), dtype=np.int64)
    parts[order] = np.minimum(middle * count // in_order.sum(), count - 1)
    return parts


def _none_empty(parts: np.ndarray, count: int) -> np.ndarray:
    """Let each empty part take half of the largest one, so that every chunk holds a vertex."""
    sizes = np.bincount(parts, minlength=count)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        moved = np.flatnonzero(parts == largest)[sizes[largest] // 2 + sizes[largest] % 2 :]
        parts[moved] = empty
        sizes = np.bincount(parts, minlength=count)
    return parts


def _from_file(name: str, num_nodes: int, count: int) -> np.ndarray:
    setting = "training.partition.file"
    path = Path(name)
    try:
        if path.suffix == ".npy":
            parts = np.load(path, allow_pickle=False)
        else:
            parts = np.loadtxt(path, dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        remedy = "give an npy file, or text with one whole number a line"
        raise UserError(
            f"no part numbers can be read: {error}", setting=setting, value=name, remedy=remedy
        ) from error
    if parts.shape != (num_nodes,):
        problem = f"{parts.size} part numbers for {num_nodes} vertices"
        raise UserError(problem, setting=setting, value=name, remedy="give one a vertex, in order")
    integral = np.issubdtype(parts.dtype, np.integer)
    if not integral or parts.min() < 0 or parts.max() >= count:
        problem = f"part numbers are not whole numbers from 0 to {count - 1}"
        raise UserError(problem, setting=setting, value=name, remedy=f"divide into {count} parts")
    empty = np.flatnonzero(np.bincount(parts, minlength=count) == 0)
    if len(empty):
        problem = f"part {empty[0]} of {count} holds no vertex"
        raise UserError(problem, setting=setting, value=name, remedy="number parts without gaps")
    whole: np.ndarray = parts.astype(np.int64)
    return whole


def _warn_if_uneven(partition: Partition, graph: csr_array) -> None:
    weights = np.bincount(
        partition.parts.numpy(), weights=np.diff(graph.indptr) + 1.0, minlength=partition.count
    )
    largest = float(weights.max() / weights.mean())
    if largest > _UNEVEN:
        _log.warning(
            "the largest of %d parts holds %.2f times the mean work; "
            "another training.partition.method or fewer parts may be faster",
            partition.count,
            largest,
        )
