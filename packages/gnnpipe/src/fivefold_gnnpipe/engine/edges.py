"""Weighted edges between two sets of rows: a sparse matrix with the transposed one beside it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fivefold import UserError
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_remaining_self_loops

from .._words import Norm
from .graph import GraphData


class Edges:
    """Edges from `num_src` source rows to `num_dst` target rows, sorted by target.

    The whole graph has as many targets as sources; a chunk's targets are its own vertices and its
    sources their halo.
    """

    def __init__(
        self,
        edge_index: Int[Tensor, "2 edge"],
        edge_weight: Float[Tensor, " edge"] | None,
        num_src: int,
        num_dst: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Keep edges that are sorted by target.

        Args:
            edge_index: source row and target row of each edge.
            edge_weight: weights; `None` stands for ones.
            num_src: source rows.
            num_dst: target rows.
            dtype: number format of the rows that are multiplied.
        """
        self.edge_index = edge_index
        self.edge_weight = edge_weight.to(dtype) if edge_weight is not None else None
        self.dtype = dtype
        self.num_src = num_src
        self.num_dst = num_dst

    @property
    def num_edges(self) -> int:
        """Edges."""
        return self.edge_index.shape[1]

    @cached_property
    def starts(self) -> Int[Tensor, " num_dst_1"]:
        """Where each target's edges begin; one more than targets."""
        return _starts(self.edge_index[1], self.num_dst)

    @cached_property
    def csr(self) -> Tensor:
        """The matrix [num_dst, num_src]: target rows, source columns."""
        return _csr(self.starts, self.edge_index[0], self._weights, (self.num_dst, self.num_src))

    @cached_property
    def csr_t(self) -> Tensor:
        """The transposed matrix [num_src, num_dst]."""
        return self.transposed().csr

    def transposed(self) -> Edges:
        """Return the same edges turned round: from these targets to these sources."""
        order = self.edge_index[0].argsort(stable=True)
        weight = self.edge_weight[order] if self.edge_weight is not None else None
        turned = self.edge_index.flip(0)[:, order]
        return Edges(turned, weight, self.num_dst, self.num_src, self.dtype)

    @property
    def _weights(self) -> Tensor:
        if self.edge_weight is not None:
            return self.edge_weight
        return torch.ones(self.num_edges, dtype=self.dtype, device=self.edge_index.device)

    def matmul(self, src: Float[Tensor, "num_src dim"]) -> Float[Tensor, "num_dst dim"]:
        """Sum the weighted source rows of each target; differentiable in the rows."""
        product: Tensor = _Aggregate.apply(src, self)  # type: ignore[no-untyped-call]
        return product

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Edges:
        """Return the same edges on a device, for rows of a number format."""
        weight = self.edge_weight.to(device) if self.edge_weight is not None else None
        index = self.edge_index.to(device)
        return Edges(index, weight, self.num_src, self.num_dst, dtype or self.dtype)

    def select(self, ids: Int[Tensor, " row"]) -> Edges:
        """Return the edges of some targets, numbered as they stand in `ids`, from all sources."""
        begin, count = self.starts[ids], self.starts[ids + 1] - self.starts[ids]
        target = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), count)
        first = torch.cumsum(count, 0) - count
        edge = torch.arange(len(target), device=ids.device) - first[target] + begin[target]
        weight = self.edge_weight[edge] if self.edge_weight is not None else None
        index = torch.stack([self.edge_index[0][edge], target])
        return Edges(index, weight, self.num_src, len(ids), self.dtype)

    def rows(self, ids: Int[Tensor, " row"]) -> Rows:
        """Return the edges of some targets alone, with the sources that they read.

        Args:
            ids: targets, ascending.
        """
        picked = self.select(ids)
        source, target = picked.edge_index
        halo = torch.unique(torch.cat([ids, source]))
        local = torch.stack([torch.searchsorted(halo, source), target])
        edges = Edges(local, picked.edge_weight, len(halo), len(ids), self.dtype)
        return Rows(ids, halo, torch.searchsorted(halo, ids), edges)


@dataclass(frozen=True)
class Rows:
    """Some rows of the graph's matrix, with the columns that they use."""

    ids: Int[Tensor, " row"]
    """The rows' vertices, ascending."""
    halo: Int[Tensor, " source"]
    """The vertices that they read, themselves included, ascending."""
    own: Int[Tensor, " row"]
    """Where the rows' own vertices stand in `halo`."""
    edges: Edges
    """From positions in `halo` to positions in `ids`."""


class _Aggregate(torch.autograd.Function):
    """Sparse times dense, whose gradient is the transposed matrix times the gradient."""

    @staticmethod
    def forward(ctx: Any, src: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        return _product(edges.csr, src)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _product(ctx.edges.csr_t, gradients[0]), None


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    if matrix.dtype is not rows.dtype:
        raise TypeError(f"edges are {matrix.dtype}, rows {rows.dtype}")
    return matrix @ rows.contiguous()


def _starts(sorted_ids: Tensor, count: int) -> Tensor:
    ids = torch.arange(count + 1, device=sorted_ids.device)
    return torch.searchsorted(sorted_ids.contiguous(), ids)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # said of every sparse CSR tensor, once a process
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(
            starts, columns.contiguous(), values, size, check_invariants=False
        )


def graph_edges(
    data: GraphData, norm: Norm, loops: bool, dtype: torch.dtype = torch.float32
) -> Edges:
    """Return the edges of a whole graph as a model wants them.

    Args:
        data: the graph.
        norm: `sym` is PyG's `gcn_norm`, `mean` the mean over in-neighbours.
        loops: whether each vertex reads itself too.
        dtype: number format of the weights.

    Raises:
        UserError: `sym` on a graph whose edges do not stand both ways, or whose weights sum to
            less than nothing at a vertex.
    """
    index, weight = data.edge_index, data.edge_weight
    weight = weight.to(dtype) if weight is not None else None
    if norm is Norm.SYM:
        _require_undirected(data)
        normal, weights = gcn_norm(index, weight, data.num_nodes, False, loops, dtype=dtype)
        if not bool(torch.isfinite(weights).all()):
            raise UserError(
                "the edge weights of a vertex sum to less than 0, and have no square root",
                setting="data.path",
                remedy="give weights from 0 on, or choose model=sage or model=resgcn",
            )
        return _sorted(normal, weights, data.num_nodes, dtype)
    if loops:
        index, weight = add_remaining_self_loops(index, weight, 1.0, data.num_nodes)
    if norm is Norm.MEAN:
        degree = torch.bincount(index[1], minlength=data.num_nodes)
        weight = (1.0 / degree.to(dtype))[index[1]]
    return _sorted(index, weight, data.num_nodes, dtype)


def _sorted(index: Tensor, weight: Tensor | None, num_nodes: int, dtype: torch.dtype) -> Edges:
    order = (index[1] * num_nodes + index[0]).argsort(stable=True)
    weight = weight[order] if weight is not None else None
    return Edges(index[:, order].contiguous(), weight, num_nodes, num_nodes, dtype)


def _require_undirected(data: GraphData) -> None:
    if not data.is_undirected:
        raise UserError(
            "this model's symmetric normalisation is defined on undirected graphs",
            setting="data.direction",
            remedy="set data.direction=undirected, or choose model=sage or model=resgcn",
        )
