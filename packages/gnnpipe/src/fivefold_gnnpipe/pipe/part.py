"""Which part of a network one rank has: a stage's layers, in one of its ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..engine.plan import LayerPlan


@dataclass(frozen=True)
class StagePart:
    """A stage's layers and its place in the grid of ranks: rank = stage · ways + way."""

    plan: LayerPlan
    """The whole network; a rank trains only its own weights."""
    layers: range
    """Its message-passing layers, counted from 1."""
    stage: int
    """Which stage."""
    stages: int
    """Stages, S."""
    way: int = 0
    """Which way."""
    ways: int = 1
    """Ways, W."""
    sends_initial: bool = False
    """Whether an initial embedding travels beside the carried rows."""

    @property
    def is_first(self) -> bool:
        """Whether it holds the features."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether it holds the labels."""
        return self.stage == self.stages - 1

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.stage * self.ways + self.way

    @property
    def peers(self) -> range:
        """The ranks that share this stage, by way."""
        return range(self.stage * self.ways, (self.stage + 1) * self.ways)

    @property
    def recomputes_initial(self) -> bool:
        """Whether it computes the initial embedding itself though it is not the first stage."""
        return self.plan.initial and not self.sends_initial and not self.is_first

    @property
    def has_encoder(self) -> bool:
        """Whether it computes with the encoder."""
        return self.is_first or self.recomputes_initial

    @property
    def shares_encoder(self) -> bool:
        """Whether stages hold copies of the encoder, whose gradients are summed over all."""
        shared = self.plan.initial and not self.sends_initial
        return shared and self.stages > 1 and self.plan.encoder is not None

    @property
    def initial_width(self) -> int:
        """Columns of the initial embedding that travel, 0 if it does not."""
        return self.plan.width(0) if self.sends_initial and self.plan.initial else 0

    @property
    def in_columns(self) -> int:
        """Columns of a message from the stage before."""
        return self.plan.width(self.layers.start - 1) + self.initial_width

    @property
    def out_columns(self) -> int:
        """Columns of a message to the stage after."""
        return self.plan.width(self.layers.stop - 1) + self.initial_width

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield this part's modules with their names in the plan."""
        if self.has_encoder and self.plan.encoder is not None:
            yield "encoder", self.plan.encoder
        for layer in self.layers:
            yield f"blocks.{layer - 1}", self.plan.block(layer)
        if self.is_last:
            for name in ("before_head", "head"):
                module = getattr(self.plan, name)
                if module is not None:
                    yield name, module

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return this part's trained weights by their names in the plan."""
        return {
            f"{prefix}.{name}": parameter
            for prefix, module in self.modules()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def encoder_names(self) -> set[str]:
        """Return the names of those of them that other stages hold copies of."""
        if not self.shares_encoder:
            return set()
        return {name for name in self.named_parameters() if name.startswith("encoder.")}

    def owned_state(self) -> dict[str, Tensor]:
        """Return weights and buffers that the whole plan takes from this part."""
        return {
            f"{prefix}.{name}": value
            for prefix, module in self.modules()
            if prefix != "encoder" or self.is_first
            for name, value in module.state_dict().items()
        }
