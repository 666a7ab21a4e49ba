"""One device of graph parallelism: its part of the graph, and its part of an epoch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .edges import Edges
from .gradients import sum_gradients
from .graph import GraphData
from .loss import node_loss, num_terms
from .memory import held_bytes
from .optimizer import clip_by_norm, make_optimizer, square_sum, state_tensors
from .partition import Partition
from .plan import NO_DROPOUT, LayerPlan, Masks
from .training import Session
from .transport import Program, Traffic, Transport


@dataclass(frozen=True)
class GraphShard:
    """What one device holds of the graph.

    A source row is one of its own vertices (first, ascending) or a remote one, grouped by owner.
    """

    vertices: Int[Tensor, " row"]
    """Its own vertices, ascending."""
    remote: Int[Tensor, " remote"]
    """The other vertices that it aggregates."""
    edges: Edges
    """From own and remote rows to its own."""
    gives: dict[int, Int[Tensor, " _"]]
    """For each other part that reads some: which of its own rows, by position."""
    takes: dict[int, int]
    """For each other part that it reads: how many rows."""
    sizes: list[int]
    """Own vertices of every part."""
    x: Float[Tensor, "row feature"]
    """Features of its own vertices."""
    x_remote: Float[Tensor, "remote feature"]
    """Features of the remote ones, copied once, for a first layer that reads features."""
    y: Tensor
    """Labels of its own vertices."""
    mask: Tensor
    """Which of them are learnt from."""
    num_terms: int
    """What the whole graph's loss is divided by."""


def shards_of(
    data: GraphData, edges: Edges, partition: Partition, wanted: Collection[int]
) -> dict[int, GraphShard]:
    """Divide a graph among devices.

    Args:
        data: the graph.
        edges: its edges as the model weights them.
        partition: which device owns which vertex.
        wanted: the devices whose shards are made.
    """
    parts, source, target = partition.parts, edges.edge_index[0], edges.edge_index[1]
    crosses = parts[source] != parts[target]
    pairs = torch.unique(parts[target][crosses] * data.num_nodes + source[crosses])
    reader, read = pairs // data.num_nodes, pairs % data.num_nodes  # sorted by reader, then vertex
    sizes = torch.bincount(parts, minlength=partition.count).tolist()
    shards = {}
    for part in wanted:
        own = partition.members(part)
        remote = read[reader == part]
        remote = remote[parts[remote].argsort(stable=True)]
        owners, counts = parts[remote].unique(return_counts=True)
        asked = {
            other: read[(reader == other) & (parts[read] == part)]
            for other in range(partition.count)
            if other != part
        }
        shards[part] = GraphShard(
            vertices=own,
            remote=remote,
            edges=_local_edges(edges, own, remote),
            gives={k: torch.searchsorted(own, v) for k, v in asked.items() if len(v)},
            takes=dict(zip(owners.tolist(), counts.tolist(), strict=True)),
            sizes=sizes,
            x=data.x[own],
            x_remote=data.x[remote],
            y=data.y[own],
            mask=data.train_mask[own],
            num_terms=num_terms(data),
        )
    return shards


def _local_edges(edges: Edges, own: Tensor, remote: Tensor) -> Edges:
    rows = edges.rows(own)
    place = torch.empty(edges.num_src, dtype=torch.int64)
    place[own] = torch.arange(len(own))
    place[remote] = torch.arange(len(own), len(own) + len(remote))
    sources = place[rows.halo[rows.edges.edge_index[0]]]
    index = torch.stack([sources, rows.edges.edge_index[1]])
    weight = rows.edges.edge_weight
    return Edges(index, weight, len(own) + len(remote), len(own), edges.dtype)


@dataclass
class _Layer:
    """What one layer's backward pass needs; leaves cut the graph where rows travel."""

    h: Tensor
    prepared: Tensor
    own: Tensor
    remote: Tensor
    out: Tensor


class GraphRank:
    """One device's weights, shard and optimizer."""

    def __init__(
        self, plan: LayerPlan, shard: GraphShard, transport: Transport, session: Session
    ) -> None:
        device, dtype = session.device, session.dtype
        self.plan = plan.to(device, dtype)
        self.optimizer = make_optimizer(session.options, self.plan.parameters())
        self.names = {p: n for n, p in self.plan.named_parameters() if p.requires_grad}
        self._options, self._transport, self._shard = session.options, transport, shard
        self._x = shard.x.to(device, dtype)
        reads_features = plan.first_reads_features
        self._x_remote = shard.x_remote.to(device, dtype) if reads_features else None
        self._y, self._mask = shard.y.to(device), shard.mask.to(device)
        self._edges = shard.edges.to(device)
        self._vertices = shard.vertices.to(device)
        self._all = torch.cat([shard.vertices, shard.remote]).to(device)
        self._gives = {part: rows.to(device) for part, rows in shard.gives.items()}

    def held_bytes(self) -> int:
        """Return the bytes of weights, optimizer, features and labels."""
        state = state_tensors(self.optimizer)
        return held_bytes([*self.plan.parameters(), *state, self._x, self._y])

    # -------------------------------------------------------------------------------------- epoch

    def epoch(self, index: int) -> Program[float]:
        """Train for one epoch; return this device's share of the loss."""
        self.plan.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = yield from self._gradients(Masks(self.plan.dropout, self._options.seed, index))
        wire, parameters = self._transport, list(self.names)
        yield from sum_gradients(wire, parameters, range(wire.size), Traffic.WEIGHT)
        if self._options.clip_norm > 0:  # every rank has the whole gradient
            clip_by_norm(parameters, self._options.clip_norm, square_sum(parameters))
        self.optimizer.step()
        return float(loss)

    def _gradients(self, masks: Masks) -> Program[Tensor]:
        """Run forward and backward; weight gradients of this device's vertices are accumulated."""
        plan = self.plan
        encoded = plan.encode(self._x, self._vertices, masks)
        h = encoded.detach().requires_grad_(plan.encoder is not None)
        initial = h.detach().requires_grad_() if plan.initial else None
        layers: list[_Layer] = []
        for number in range(1, plan.num_blocks + 1):
            layer = yield from self._forward(number, h, initial, masks)
            layers.append(layer)
            h = layer.out.detach().requires_grad_()
        logits = plan.readout(h, self._vertices, masks)
        loss = node_loss(logits, self._y, self._mask, self._shard.num_terms)
        loss.backward()
        gradient = h.grad
        for number in range(plan.num_blocks, 0, -1):
            gradient = yield from self._backward(number, layers.pop(), gradient)
        if plan.encoder is not None:
            assert gradient is not None
            if initial is not None and initial.grad is not None:
                gradient = gradient + initial.grad
            encoded.backward(gradient)
        return loss.detach()

    def _forward(
        self, number: int, h: Tensor, initial: Tensor | None, masks: Masks
    ) -> Program[_Layer]:
        """Run a layer: send boundary rows as soon as they are there, then aggregate."""
        block = self.plan.block(number)
        prepared = block.prepare(h)
        own = prepared.detach().requires_grad_(prepared.requires_grad)
        if number == 1 and self._x_remote is not None:
            remote = block.prepare(self._x_remote).detach()
        else:
            remote = yield from self._swap(own.detach(), number, Traffic.HALO)
            remote.requires_grad_()
        source = masks.drop(number, torch.cat([own, remote]), self._all)
        out = block.update(source, source[: len(own)], h, self._edges, initial)
        return _Layer(h, prepared, own, remote, out)

    def _backward(
        self, number: int, layer: _Layer, gradient: Tensor | None
    ) -> Program[Tensor | None]:
        """Send the gradients of remote rows to their owners; return that of the carried rows."""
        assert gradient is not None
        layer.out.backward(gradient)
        if layer.remote.requires_grad:
            yield from self._return(layer, number)
        elif not layer.h.requires_grad:
            return None
        if layer.prepared is layer.h:
            return _added(layer.h.grad, layer.own.grad)
        layer.prepared.backward(layer.own.grad)
        return layer.h.grad

    def _swap(self, rows: Tensor, number: int, traffic: Traffic) -> Program[Tensor]:
        """Send boundary rows and return the remote ones, in order of their owners."""
        wire, width = self._transport, rows.shape[1]
        pending = [
            wire.post((count, width), rows.dtype, part, traffic, number)
            for part, count in self._shard.takes.items()
        ]
        for part, given in self._gives.items():
            wire.send(rows[given], part, traffic, number)
        received = []
        for arrival in pending:
            remote = yield arrival
            received.append(remote)
        return torch.cat(received) if received else rows.new_zeros(0, width)

    def _return(self, layer: _Layer, number: int) -> Program[None]:
        """Swap gradients the other way; add what comes back to the own rows' gradient."""
        wire, width, dtype = self._transport, layer.own.shape[1], layer.own.dtype
        pending = {
            part: wire.post((len(rows), width), dtype, part, Traffic.HALO_GRADIENT, number)
            for part, rows in self._gives.items()
        }
        gradient = layer.remote.grad
        if gradient is None:
            gradient = torch.zeros_like(layer.remote)
        counts = list(self._shard.takes.values())
        for part, rows in zip(self._shard.takes, gradient.split(counts), strict=True):
            wire.send(rows, part, Traffic.HALO_GRADIENT, number)
        if layer.own.grad is None:
            layer.own.grad = torch.zeros_like(layer.own)
        for part, arrival in pending.items():
            returned = yield arrival
            layer.own.grad.index_add_(0, self._gives[part], returned)

    # --------------------------------------------------------------------------------- evaluation

    def logits(self) -> Program[list[Tensor] | None]:
        """Return every part's exact scores at rank 0, in order of parts."""
        plan = self.plan.eval()
        with torch.no_grad():
            h = plan.encode(self._x, self._vertices)
        initial = h if plan.initial else None
        for number in range(1, plan.num_blocks + 1):
            block = plan.block(number)
            with torch.no_grad():
                prepared = block.prepare(h)
            if number == 1 and self._x_remote is not None:
                with torch.no_grad():
                    remote = block.prepare(self._x_remote)
            else:
                remote = yield from self._swap(prepared, number, Traffic.EVALUATION)
            with torch.no_grad():
                source = torch.cat([prepared, remote])
                h = block.update(source, prepared, h, self._edges, initial)
        with torch.no_grad():
            scores = plan.readout(h, self._vertices, NO_DROPOUT)
        return (yield from self._collect(scores))

    def _collect(self, scores: Tensor) -> Program[list[Tensor] | None]:
        wire, last = self._transport, self.plan.num_blocks + 1
        if wire.rank:
            wire.send(scores, 0, Traffic.EVALUATION, last)
            return None
        shapes = [(size, scores.shape[1]) for size in self._shard.sizes]
        pending = [
            wire.post(shapes[part], scores.dtype, part, Traffic.EVALUATION, last)
            for part in range(1, wire.size)
        ]
        parts = [scores]
        for arrival in pending:
            rows = yield arrival
            parts.append(rows)
        return parts


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return first if second is None else second
    return first + second
