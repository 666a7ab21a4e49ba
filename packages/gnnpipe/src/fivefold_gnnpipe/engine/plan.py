"""What a model is here: an encoder, blocks, a head, and one tensor that is carried between them.

Every training method needs no more than this. Dropout stands at the start of a unit, so that what
crosses a boundary or waits in a history is whole:

    h^0 = encoder(D_0(x))
    t^l = prepare_l(h^{l-1});   h^l = update_l(D_l(t^l) over in-neighbours, D_l(t^l), h^{l-1}, h^0)
    logits = head(D_{L+1}(prepare(h^L)))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fivefold import UserError
from jaxtyping import Float, Int
from torch import Tensor, nn

from .._words import Norm
from .dropout import dropout_key, keyed_dropout
from .edges import Edges

_MIXING = ("BatchNorm", "InstanceNorm", "GraphNorm", "PairNorm", "GroupNorm", "MeanSubtraction")
"""Parts of class names of layers whose result for a vertex depends on all vertices given."""


@dataclass(frozen=True)
class Masks:
    """The dropout of one epoch; the default drops nothing."""

    p: float = 0.0
    """Share of entries dropped."""
    seed: int = 0
    """The run's seed."""
    epoch: int = 0
    """The epoch, from 0."""

    def drop(
        self, layer: int, values: Float[Tensor, "row dim"], vertices: Int[Tensor, " row"]
    ) -> Float[Tensor, "row dim"]:
        """Apply one layer's mask: 0 the encoder's, l block l's, L + 1 the head's."""
        if self.p == 0.0:
            return values
        return keyed_dropout(values, self.p, dropout_key(self.seed, self.epoch, layer), vertices)


NO_DROPOUT = Masks()
"""The masks of evaluation."""


class Block(nn.Module, ABC):
    """One message-passing layer, from carried tensor to carried tensor.

    Attributes:
        in_width: columns of the carried tensor it takes, and of what it aggregates.
        out_width: columns of the one it returns.
        norm: how its edges are weighted.
        loops: whether its vertices read themselves through an edge.
        attention: whether edge weights depend on the embeddings.
        residual: whether its result keeps a part of what it was given or of the initial embedding.
        uses_initial: whether it reads the initial embedding h^0.
        kept: rows a vertex that its backward pass keeps, as counted.
    """

    norm = Norm.NONE
    loops = False
    attention = False
    residual = False
    uses_initial = False
    kept = 4

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.out_width = out_width

    @property
    def mixes_vertices(self) -> bool:
        """Whether its result for a vertex depends on which vertices it is given at once."""
        return mixes_vertices(self)

    def prepare(self, h: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Return what is aggregated, vertex by vertex, before dropout."""
        return h

    @abstractmethod
    def update(
        self,
        src: Float[Tensor, "source dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        edges: Edges,
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Return the next carried rows.

        Args:
            src: prepared rows, dropped out, of everything the rows' edges come from.
            dst: prepared rows, dropped out, of the rows themselves.
            h: the carried rows.
            edges: from `src` rows to these rows.
            h0: the rows' initial embedding, where the block uses it.
        """


class SparseBlock(Block):
    """A block whose aggregation is a product with fixed edge weights."""

    def update(
        self,
        src: Float[Tensor, "source dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        edges: Edges,
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Aggregate, then combine."""
        return self.combine(edges.matmul(src), dst, h, h0)

    @abstractmethod
    def combine(
        self,
        neighbours: Float[Tensor, "row dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Return the next carried rows of the aggregated ones; see `update`."""


class ConvBlock(Block):
    """A PyG convolution, called on (sources, targets), with a norm and an activation after it."""

    def __init__(
        self,
        conv: nn.Module,
        in_width: int,
        out_width: int,
        *,
        activation: nn.Module | None = None,
        norm: nn.Module | None = None,
        loops: bool = False,
        attention: bool = False,
        takes_weight: bool = False,
    ) -> None:
        """Wrap a convolution.

        Args:
            conv: takes `((src, dst), edge_index)`, and edge weights if `takes_weight`.
            in_width: columns of its input.
            out_width: columns of its output.
            activation: after the norm.
            norm: after the convolution.
            loops: whether it wants an edge from each vertex to itself.
            attention: whether its edge weights depend on the embeddings.
            takes_weight: whether its third argument is a weight an edge.
        """
        super().__init__(in_width, out_width)
        self.conv = conv
        self.after = nn.Sequential(*(part for part in (norm, activation) if part is not None))
        self.loops = loops
        self.attention = attention
        self._takes_weight = takes_weight

    def update(
        self,
        src: Float[Tensor, "source dim"],
        dst: Float[Tensor, "row dim"],
        h: Float[Tensor, "row dim"],
        edges: Edges,
        h0: Float[Tensor, "row initial"] | None = None,
    ) -> Float[Tensor, "row out"]:
        """Convolve, normalise, activate."""
        weight = (
            (edges.edge_weight,) if self._takes_weight and edges.edge_weight is not None else ()
        )
        rows: Tensor = self.after(self.conv((src, dst), edges.edge_index, *weight))
        return rows


class LayerPlan(nn.Module):
    """A network as every training method sees it.

    Attributes:
        encoder: from features to the first carried tensor, vertex by vertex; `None`: the features.
        blocks: the message-passing layers.
        before_head: what the last carried tensor passes before the head's dropout.
        head: from there to scores, vertex by vertex; `None`: the carried tensor is the scores.
        dropout: share of entries dropped before encoder, blocks and head.
        num_features: columns of the features.
        recipe: what makes the same network again, for checkpoints.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        num_features: int,
        encoder: nn.Module | None = None,
        head: nn.Module | None = None,
        before_head: nn.Module | None = None,
        dropout: float = 0.0,
        recipe: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        kinds = {(block.norm, block.loops) for block in blocks}
        if len(kinds) != 1:
            parts = (type(getattr(block, "conv", block)).__name__ for block in blocks)
            names = ", ".join(dict.fromkeys(parts)) or "none"
            raise UserError(
                f"these layers want different edges: {names}",
                setting="model",
                remedy="use layers that agree on normalisation and self loops",
            )
        if not 0 <= dropout < 1:
            remedy = "give a share from 0 to below 1"
            raise UserError("not a share", setting="model.dropout", value=dropout, remedy=remedy)
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.before_head = before_head
        self.head = head
        self.dropout = dropout
        self.num_features = num_features
        self.recipe = recipe or {}

    # ------------------------------------------------------------------------------- description

    @property
    def num_blocks(self) -> int:
        """Message-passing layers, L."""
        return len(self.blocks)

    def block(self, layer: int) -> Block:
        """Return block `layer`, counted from 1 as the paper does."""
        block = self.blocks[layer - 1]
        assert isinstance(block, Block)
        return block

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return [self.block(layer) for layer in range(1, self.num_blocks + 1)]

    @property
    def norm(self) -> Norm:
        """How the edges are weighted."""
        return self.block(1).norm

    @property
    def loops(self) -> bool:
        """Whether vertices read themselves through an edge."""
        return self.block(1).loops

    @property
    def initial(self) -> bool:
        """Whether blocks read the initial embedding h^0."""
        return any(block.uses_initial for block in self.layers)

    @property
    def attention(self) -> bool:
        """Whether a block's edge weights depend on the embeddings."""
        return any(block.attention for block in self.layers)

    @property
    def residual(self) -> bool:
        """Whether every block that could keeps a part of its input."""
        return any(block.residual for block in self.layers)

    @property
    def mixes_vertices(self) -> str:
        """The class of a layer that needs all vertices at once; empty: there is none."""
        return mixing_class(self)

    def width(self, layer: int) -> int:
        """Return the columns of the tensor that is carried after `layer` blocks."""
        return (
            self.block(layer + 1).in_width
            if layer < self.num_blocks
            else self.block(layer).out_width
        )

    @property
    def aggregated_widths(self) -> list[int]:
        """The columns that each block aggregates."""
        return [block.in_width for block in self.layers]

    @property
    def first_reads_features(self) -> bool:
        """Whether block 1 aggregates the features themselves, which never change."""
        return self.encoder is None and type(self.block(1)).prepare is Block.prepare

    def num_parameters(self) -> int:
        """Return how many weights are trained."""
        return num_trained(self)

    # --------------------------------------------------------------------------------- computing

    def encode(
        self,
        x: Float[Tensor, "row feature"],
        vertices: Int[Tensor, " row"],
        masks: Masks = NO_DROPOUT,
    ) -> Float[Tensor, "row dim"]:
        """Return the first carried rows of some vertices."""
        if self.encoder is None:
            return x
        rows: Tensor = self.encoder(masks.drop(0, x, vertices))
        return rows

    def head_prepare(self, h: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Return what the head drops out and reads."""
        if self.before_head is None:
            return h
        rows: Tensor = self.before_head(h)
        return rows

    def readout(
        self,
        h: Float[Tensor, "row dim"],
        vertices: Int[Tensor, " row"],
        masks: Masks = NO_DROPOUT,
    ) -> Float[Tensor, "row class"]:
        """Return the scores of some vertices from the last carried rows."""
        if self.head is None:
            return h
        dropped = masks.drop(self.num_blocks + 1, self.head_prepare(h), vertices)
        scores: Tensor = self.head(dropped)
        return scores

    def forward(
        self,
        x: Float[Tensor, "node feature"],
        edges: Edges,
        masks: Masks = NO_DROPOUT,
    ) -> Float[Tensor, "node class"]:
        """Return the scores of all vertices: the whole graph at once, every value fresh."""
        vertices = torch.arange(x.shape[0], device=x.device)
        h = self.encode(x, vertices, masks)
        h0 = h if self.initial else None
        for layer, block in enumerate(self.layers, 1):
            rows = masks.drop(layer, block.prepare(h), vertices)
            h = block.update(rows, rows, h, edges, h0)
        return self.readout(h, vertices, masks)


@torch.no_grad()
def check_fits(plan: LayerPlan, num_features: int, num_classes: int | None = None) -> None:
    """Refuse a plan that takes other features than a graph has, or makes other scores.

    Args:
        plan: the network.
        num_features: the graph's columns.
        num_classes: the graph's classes; not compared when left out.

    Raises:
        UserError: other columns, or other classes.
    """
    if plan.num_features != num_features:
        raise UserError(
            f"the network takes {plan.num_features} features, and the graph has {num_features}",
            setting="model",
            remedy=f"make it for num_features={num_features}",
        )
    if num_classes is None:
        return
    like = next(plan.parameters(), torch.zeros(0))
    was_training = plan.training
    last = torch.zeros(1, plan.width(plan.num_blocks), dtype=like.dtype, device=like.device)
    made = plan.eval().readout(last, torch.zeros(1, dtype=torch.int64, device=like.device))
    plan.train(was_training)
    if made.shape[1] != num_classes:
        raise UserError(
            f"the network makes {made.shape[1]} scores, and the graph has {num_classes} classes",
            setting="model",
            remedy=f"make it for num_classes={num_classes}",
        )


def num_trained(module: nn.Module) -> int:
    """Return how many weights of a module are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def mixing_class(module: nn.Module) -> str:
    """Return the class of a layer within that mixes vertices, empty when there is none."""
    for part in module.modules():
        name = type(part).__name__
        # PyG's LayerNorm is over a whole graph unless it is told otherwise
        if any(word in name for word in _MIXING) or getattr(part, "mode", "") == "graph":
            return name
    return ""


def mixes_vertices(module: nn.Module) -> bool:
    """Whether a module's result for a vertex depends on the others it is given at once."""
    return bool(mixing_class(module))
