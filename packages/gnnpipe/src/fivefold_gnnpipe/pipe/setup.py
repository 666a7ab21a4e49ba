"""How a pipeline is laid out: chunks, cuts, which rank has what, and what that should send."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..engine.edges import Edges
from ..engine.graph import GraphData
from ..engine.partition import Partition, boundary
from ..engine.plan import LayerPlan, num_trained
from .config import GNNPipeConfig, Initial
from .part import StagePart
from .split import stage_ranges
from .volume import Sizes, edge_bytes, pipeline_bytes


@dataclass(frozen=True)
class Layout:
    """Chunks and cuts of one pipeline."""

    settings: GNNPipeConfig
    """The method's settings."""
    partition: Partition
    """A chunk number for every vertex."""
    edges: Edges
    """Of the whole graph, as the model weights them."""
    cuts: Sequence[int]
    """Layers after which a stage ends."""
    sizes: Sizes
    """What decides the bytes."""
    sends_initial: bool
    """Whether the initial embedding travels."""
    num_classes: int
    """Columns of the scores."""
    guessing: float
    """The loss of a model that knows only how frequent each class is."""

    @property
    def num_slots(self) -> int:
        """Chunks of a way."""
        return self.partition.count // self.settings.ways

    @cached_property
    def ways(self) -> Partition:
        """Which way has which vertex."""
        return self.partition.grouped(self.settings.ways)

    @cached_property
    def _members(self) -> list[Tensor]:
        return [self.ways.members(way) for way in range(self.settings.ways)]

    def way_members(self, way: int) -> Tensor:
        """Return a way's vertices, ascending."""
        return self._members[way]

    @cached_property
    def bytes_formula(self) -> int:
        """What an epoch should send, all ranks together."""
        return pipeline_bytes(
            self.sizes,
            self.cuts,
            sends_initial=self.sends_initial,
            ways=self.settings.ways,
            boundary=boundary(self.ways, self.edges.edge_index),
        )

    @cached_property
    def cross_share(self) -> float:
        """Share of edges between two chunks."""
        source, target = self.edges.edge_index
        parts = self.partition.parts
        proper = source != target
        crosses = (parts[source] != parts[target]) & proper
        return float(crosses.sum() / proper.sum().clamp(min=1))

    @property
    def edge_bytes(self) -> int:
        """Bytes of the edges that one rank holds."""
        edges, nodes = self.edges.num_edges, self.edges.num_dst
        return edge_bytes(edges, nodes, self.sizes.item) // self.settings.ways

    def part(self, plan: LayerPlan, stage: int, way: int) -> StagePart:
        """Return what a rank has of a plan."""
        return StagePart(
            plan=plan,
            layers=stage_ranges(self.cuts, plan.num_blocks)[stage],
            stage=stage,
            stages=self.settings.stages,
            way=way,
            ways=self.settings.ways,
            sends_initial=self.sends_initial,
        )


def sizes_of(plan: LayerPlan, num_nodes: int, dtype: torch.dtype) -> Sizes:
    """Return what of a graph and a plan decides the bytes."""
    widths = plan.aggregated_widths
    if plan.first_reads_features:
        widths = [0, *widths[1:]]
    encoder = plan.encoder
    return Sizes(
        num_nodes=num_nodes,
        widths=widths,
        carried=[plan.width(layer) for layer in range(1, plan.num_blocks + 1)],
        num_weights=plan.num_parameters(),
        initial=plan.width(0) if plan.initial else 0,
        num_encoder_weights=num_trained(encoder) if encoder else 0,
        item=torch.empty((), dtype=dtype).element_size(),
        num_features=plan.num_features,
        kept=[block.kept for block in plan.layers],
    )


def sends_initial(settings: GNNPipeConfig, sizes: Sizes, cuts: Sequence[int]) -> bool:
    """Return whether the initial embedding travels; `auto` takes whichever sends less."""
    if settings.initial is not Initial.AUTO or not sizes.initial:
        return settings.initial is Initial.SEND and bool(sizes.initial)
    ways = settings.ways
    sent = pipeline_bytes(sizes, cuts, sends_initial=True, ways=ways)
    return sent < pipeline_bytes(sizes, cuts, sends_initial=False, ways=ways)


def guessing_loss(data: GraphData) -> float:
    """Return the loss of a model that knows only how frequent each class is."""
    if data.is_multilabel:
        share = data.y[data.train_mask].double().mean(0).clamp(1e-9, 1 - 1e-9)
        entropy = -(share * share.log() + (1 - share) * (1 - share).log())
        return float(entropy.mean())
    known = data.y[data.train_mask & data.labels_known]
    share = torch.bincount(known).double() / max(1, len(known))
    loss = -(share * share.clamp(min=1e-300).log()).sum()
    return float(loss) if loss > 0 else math.inf


def flat_settings(settings: GNNPipeConfig) -> dict[str, object]:
    """Return the settings by dotted name, without what may differ between ranks."""
    found: dict[str, object] = {}
    for name, value in vars(settings).items():
        if name == "transport":
            continue
        if hasattr(value, "__dataclass_fields__"):
            found |= {f"{name}.{key}": item for key, item in vars(value).items()}
        else:
            found[name] = value
    return found
