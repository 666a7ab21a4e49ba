"""The training methods behind the hook: plain, checkpoint, mst, mst_faithful."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from .._words import Offload
from ..config import FaithfulConfig, LayerCheckpointConfig, MstConfig, PlainConfig
from ..protocol import OptimizerBuilder, TokenScores
from .checkpointing import enable_checkpointing
from .discovery import Report, base_causal
from .patch import PatchHandle, apply_mst, logit_scores
from .planner import peak_of
from .undo import Undo


@dataclass
class LayerHandle:
    """A model as it is, or with checkpointed layers."""

    model: nn.Module
    offload: Offload | None
    """Where checkpoints wait; None: layers are not checkpointed."""
    rows: list[Report] = field(default_factory=list)
    steps_in_backward: bool = False
    sequence_parallel: int = 1
    _undo: Undo = field(default_factory=Undo)

    def optimizer(self, build: OptimizerBuilder, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer as it is."""
        return build(parameters)

    def local_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole batch."""
        return dict(batch)

    def scores(self, output: Any, shift_labels: Int[Tensor, "batch token"]) -> TokenScores:
        """Return what evaluation needs, from the model's own scores."""
        return logit_scores(output.logits, shift_labels)

    def predicted_peak(self, batch_size: int, seq_len: int) -> int | None:
        """Return the planner's peak of a step; see `TrainingHandle.predicted_peak`."""
        causal = base_causal(self.model)
        return peak_of(causal, lambda model: apply_layers(model, self.offload), batch_size, seq_len)

    def report(self) -> list[dict[str, str]]:
        """Return one row a checkpointed layer."""
        return [row.row() for row in self.rows]

    def revert(self) -> None:
        """Leave the model as it was; a second call does nothing."""
        self._undo.revert()

    def __enter__(self) -> LayerHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.revert()


def apply_layers(model: nn.Module, offload: Offload | None) -> LayerHandle:
    """Checkpoint a model's layers, or with None do nothing."""
    handle = LayerHandle(model, offload)
    if offload is not None:
        handle.rows = enable_checkpointing(handle._undo, model, offload)
    return handle


@dataclass(frozen=True)
class LayerMethod:
    """`training=plain` and `training=checkpoint`."""

    name: str
    offload: Offload | None

    def apply(self, model: nn.Module) -> LayerHandle:
        """Leave the model as it is, or checkpoint its layers."""
        return apply_layers(model, self.offload)


@dataclass(frozen=True)
class MstMethod:
    """`training=mst`."""

    config: MstConfig
    name: str = "mst"

    def apply(self, model: nn.Module) -> PatchHandle:
        """Put mini-sequences on the model."""
        return apply_mst(model, self.config)


@dataclass(frozen=True)
class FaithfulMethod:
    """`training=mst_faithful`: the source's scheme, without its bugs."""

    config: FaithfulConfig
    name: str = "mst_faithful"

    def apply(self, model: nn.Module) -> PatchHandle:
        """Split MLPs at d tokens, the head into ceil(V/d) chunks, and checkpoint layers."""
        shape = base_causal(model).config.get_text_config()  # type: ignore[operator, union-attr]
        handle = apply_mst(model, self.config.as_mst(shape.hidden_size, shape.vocab_size))
        handle.name = self.name
        return handle


def build_plain(settings: PlainConfig) -> LayerMethod:
    """Build `training=plain`."""
    return LayerMethod("plain", None)


def build_checkpoint(settings: LayerCheckpointConfig) -> LayerMethod:
    """Build `training=checkpoint`."""
    return LayerMethod("checkpoint", settings.offload)


def build_mst(settings: MstConfig) -> MstMethod:
    """Build `training=mst`."""
    return MstMethod(settings)


def build_faithful(settings: FaithfulConfig) -> FaithfulMethod:
    """Build `training=mst_faithful`."""
    return FaithfulMethod(settings)
