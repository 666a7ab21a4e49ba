"""The pipeline as one equation: the slow twin that the executor is held against (section 4.2).

The matrix A of a layer is split by the order of the epoch: A≤ keeps an entry (v, u) if u's chunk
has its turn no later than v's, A> the rest.

    agg = A≤ T + A> T̂          dL/dT ∋ (A=ᵀ + β A<ᵀ) dL/dagg

T are the rows that are aggregated, T̂ their history, A= the entries within a turn and A< those of
earlier ones. There are no chunks, stages or messages here: the whole graph in every layer, two
sparse products. Models with attention have no matrix; `twin_by_autograd` runs their chunks one
after another under a single autograd graph, with the history detached (β = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..engine.edges import Edges
from ..engine.graph import GraphData
from ..engine.loss import node_loss, num_terms
from ..engine.plan import LayerPlan, Masks, SparseBlock


@dataclass(frozen=True)
class Splits:
    """A layer's matrix, split by an epoch's order; dense or sparse, [node, node]."""

    fresh: Tensor
    """A≤."""
    stale: Tensor
    """A>."""
    back: Tensor
    """A=ᵀ + β A<ᵀ."""

    @classmethod
    def of(cls, edges: Edges, turn: Int[Tensor, " node"], crossing: float) -> Splits:
        """Split a graph's matrix.

        Args:
            edges: of the whole graph, weighted.
            turn: when each vertex has its turn.
            crossing: β.
        """
        source, target = edges.edge_index
        weight = edges.edge_weight
        if weight is None:
            weight = torch.ones(edges.num_edges, dtype=edges.dtype)
        is_stale = turn[source] > turn[target]
        factor = torch.where(turn[source] == turn[target], 1.0, crossing).to(weight.dtype)
        size = (edges.num_dst, edges.num_src)
        fresh = _matrix(target, source, weight, ~is_stale, size)
        stale = _matrix(target, source, weight, is_stale, size)
        return cls(fresh, stale, _matrix(source, target, weight * factor, ~is_stale, size[::-1]))


def _matrix(
    rows: Tensor,
    columns: Tensor,
    values: Tensor,
    kept: Bool[Tensor, " edge"],
    size: tuple[int, ...],
) -> Tensor:
    index = torch.stack([rows[kept], columns[kept]])
    return torch.sparse_coo_tensor(index, values[kept], size, check_invariants=False).coalesce()


class _Aggregate(torch.autograd.Function):
    """agg = A≤ T + A> T̂ with the gradient that the source prescribes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, history: Tensor, splits: Splits) -> Tensor:
        ctx.splits = splits
        return splits.fresh @ rows + splits.stale @ history

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.splits.back @ gradients[0], None, None


@dataclass
class TwinEpoch:
    """What a twin's forward pass gave."""

    loss: Float[Tensor, ""]
    """The loss, to descend from."""
    stored: list[Float[Tensor, "node _"]]
    """By layer: the rows that become the history."""


def twin_epoch(
    plan: LayerPlan,
    data: GraphData,
    edges: Edges,
    masks: Masks,
    turn: Int[Tensor, " node"],
    history: list[Float[Tensor, "node _"]],
    *,
    crossing: float = 2.0,
    first_is_fresh: bool = True,
    is_frozen: bool = False,
) -> TwinEpoch:
    """Return the loss of one stale epoch; `loss.backward()` gives the source's gradient.

    Args:
        plan: a network of sparse blocks, on the CPU.
        data: the graph.
        edges: its edges as the plan weights them.
        masks: the epoch's dropout.
        turn: when each vertex has its turn.
        history: by layer: the rows that vertices still to come are read from.
        crossing: β.
        first_is_fresh: whether the first layer reads every vertex fresh, and β does not apply.
        is_frozen: whether the history holds rows after dropout.
    """
    vertices = torch.arange(data.num_nodes)
    splits = Splits.of(edges, turn, crossing)
    whole = Splits.of(edges, torch.zeros_like(turn), 1.0)
    h = plan.encode(data.x.to(edges.dtype), vertices, masks)
    h0 = h if plan.initial else None
    stored = []
    for layer, block in enumerate(plan.layers, 1):
        assert isinstance(block, SparseBlock)
        prepared = block.prepare(h)
        rows = masks.drop(layer, prepared, vertices)
        stored.append((rows if is_frozen else prepared).detach())
        old = history[layer - 1] if is_frozen else masks.drop(layer, history[layer - 1], vertices)
        how = whole if first_is_fresh and layer == 1 else splits
        agg: Tensor = _Aggregate.apply(rows, old, how)  # type: ignore[no-untyped-call]
        h = block.combine(agg, rows, h, h0)
    logits = plan.readout(h, vertices, masks)
    return TwinEpoch(node_loss(logits, data.y, data.train_mask, num_terms(data)), stored)


def twin_by_autograd(
    plan: LayerPlan,
    data: GraphData,
    edges: Edges,
    masks: Masks,
    turn: Int[Tensor, " node"],
    history: list[Float[Tensor, "node _"]],
    *,
    first_is_fresh: bool = True,
) -> TwinEpoch:
    """Return the loss of one stale epoch of any network, under one autograd graph (β = 1).

    A vertex reads those of its own turn and of earlier ones as they are, and the detached history
    of the others. The arguments are those of `twin_epoch`.
    """
    vertices = torch.arange(data.num_nodes)
    turns = [vertices[turn == now] for now in sorted(set(turn.tolist()))]
    h = plan.encode(data.x.to(edges.dtype), vertices, masks)
    h0 = h if plan.initial else None
    stored = []
    for layer, block in enumerate(plan.layers, 1):
        rows = masks.drop(layer, block.prepare(h), vertices)
        stored.append(block.prepare(h).detach())
        old = masks.drop(layer, history[layer - 1], vertices).detach()
        parts = []
        for ids in turns:
            here = edges.rows(ids)
            is_fresh = turn[here.halo] <= turn[ids[0]]
            if first_is_fresh and layer == 1:
                is_fresh = torch.ones_like(is_fresh)
            source = torch.where(is_fresh[:, None], rows[here.halo], old[here.halo])
            own = h0[ids] if h0 is not None else None
            parts.append(block.update(source, source[here.own], h[ids], here.edges, own))
        h = torch.cat(parts)[torch.cat(turns).argsort()]
    logits = plan.readout(h, vertices, masks)
    return TwinEpoch(node_loss(logits, data.y, data.train_mask, num_terms(data)), stored)
