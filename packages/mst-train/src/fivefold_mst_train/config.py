"""Settings of the training methods, at `training.*` (imports no torch)."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from fivefold import UserError, nearest
from fivefold_lm.offload.sizes import parse_size

from ._words import AccumDtype, HeadImpl, HeadStrategy, Kernel, Offload, Recompute, Score

W = TypeVar("W", bound=StrEnum)


@dataclass
class PlainConfig:
    """Train the model as it is; nothing to set."""


@dataclass
class CheckpointConfig:
    """Whole-layer activation checkpointing (non-reentrant)."""

    enabled: bool = True
    """Keep only the input of each layer, and compute the layer again in backward."""
    offload: Offload = Offload.NONE
    """Where those inputs wait for backward: `none` (on the device) or `cpu`."""

    def __post_init__(self) -> None:
        """Take words for what they mean.

        Raises:
            UserError: an unknown word.
        """
        self.offload = _word(self.offload, Offload, "checkpoint.offload")


@dataclass
class LayerCheckpointConfig:
    """What `training=checkpoint` takes."""

    offload: Offload = Offload.NONE
    """Where the inputs of layers wait for backward: `none` (on the device) or `cpu`."""

    def __post_init__(self) -> None:
        """Take words for what they mean.

        Raises:
            UserError: an unknown word.
        """
        self.offload = _word(self.offload, Offload, "offload")


@dataclass
class MlpConfig:
    """How MLPs are cut into mini-sequences."""

    enabled: bool = True
    """Tile the MLPs."""
    tile_tokens: int = 0
    """Tokens of one tile; 0: as many as `budget` lets be, all where tiling saves nothing."""
    recompute: Recompute = Recompute.PER_TILE
    """When wide tensors are computed again: `per_tile`, or `none` (keeps those of every tile)."""
    save_first: bool = True
    """Save the MLP's input before its tiles run, so that a checkpointed layer's replay stops there:
    two MLP forwards a token instead of three."""
    accum_dtype: AccumDtype = AccumDtype.FLOAT32
    """Number format in which weight gradients are added up over tiles: `float32` or `param`."""
    kernel: Kernel = Kernel.AUTO
    """What multiplies activation and up projection: `auto`, `torch` or `triton`."""
    modules: list[str] = field(default_factory=list)
    """Modules to tile in addition, by name or by the end of it: token-wise ones that no known
    structure finds."""

    def __post_init__(self) -> None:
        """Refuse a negative tile, and take words for what they mean.

        Raises:
            UserError: `tile_tokens` is below 0, or an unknown word.
        """
        self.recompute = _word(self.recompute, Recompute, "mlp.recompute")
        self.accum_dtype = _word(self.accum_dtype, AccumDtype, "mlp.accum_dtype")
        self.kernel = _word(self.kernel, Kernel, "mlp.kernel")
        _at_least(self.tile_tokens, 0, "mlp.tile_tokens", "a tile of a negative number of tokens")


@dataclass
class HeadConfig:
    """How the LM head and its cross entropy are cut into chunks."""

    enabled: bool = True
    """Compute the loss chunk by chunk, without logits of the whole sequence."""
    chunk_tokens: int = 0
    """Tokens of one chunk; 0: as many as `budget` lets be."""
    num_chunks: int = 0
    """Chunks of a batch, in place of tokens of a chunk; 0: `chunk_tokens` decides."""
    impl: HeadImpl = HeadImpl.EAGER
    """What computes it: `eager` (ours), `torch`, `liger` or `cce`."""
    strategy: HeadStrategy = HeadStrategy.GRAD_IN_FORWARD
    """When gradients are computed: `grad_in_forward`, or `recompute` (in backward)."""
    accum_dtype: AccumDtype = AccumDtype.FLOAT32
    """Number format in which the weight's gradient is added up over chunks."""
    drop_ignored: bool = False
    """Leave out positions without a label before the product; costs one synchronisation."""
    returns: list[Score] = field(default_factory=lambda: [Score.LOSS])
    """What the model returns beside the loss: `nll`, `accuracy`, `argmax`, `entropy`."""
    ignore_index: int = -100
    """The label that counts for nothing."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over the whole vocabulary."""
    z_loss: float = 0.0
    """Weight of the squared log of the softmax's normaliser."""

    def __post_init__(self) -> None:
        """Refuse values outside their range, and take words for what they mean.

        Raises:
            UserError: names the setting and the range, or the words.
        """
        self.impl = _word(self.impl, HeadImpl, "head.impl")
        self.strategy = _word(self.strategy, HeadStrategy, "head.strategy")
        self.accum_dtype = _word(self.accum_dtype, AccumDtype, "head.accum_dtype")
        self.returns = [_word(each, Score, "head.returns") for each in self.returns]
        _at_least(self.chunk_tokens, 0, "head.chunk_tokens", "a chunk of fewer than no tokens")
        _at_least(self.num_chunks, 0, "head.num_chunks", "fewer than no chunks")
        if self.num_chunks and self.chunk_tokens:
            raise UserError(
                f"{self.num_chunks} chunks, and chunks of {self.chunk_tokens} tokens: which?",
                setting="training.head.num_chunks",
                value=self.num_chunks,
                remedy="give one of training.head.num_chunks and training.head.chunk_tokens",
            )
        _at_least(self.z_loss, 0.0, "head.z_loss", "a negative weight")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                "no share of a label",
                setting="training.head.label_smoothing",
                value=self.label_smoothing,
                remedy="give a value from 0 to less than 1",
            )


@dataclass
class BlockConfig:
    """Tile everything of a layer but attention itself."""

    enabled: bool = False
    """Run norms, projections, rotation, residuals and the MLP of a layer tile by tile."""


@dataclass
class BudgetConfig:
    """What one tile may take."""

    bytes: str = ""
    """Memory of one tile's wide tensors, such as 256MiB; empty: 2 % of the device, at least
    64MiB."""
    min_tile: int = 0
    """Least tokens of a tile; 0: 1024 on an accelerator, 1 on a CPU."""
    max_tile: int = 16384
    """Most tokens of a tile."""

    def __post_init__(self) -> None:
        """Refuse a budget that means nothing.

        Raises:
            UserError: no size, or limits that no tile meets.
        """
        if self.bytes:
            try:
                parse_size(self.bytes)
            except (ValueError, TypeError) as error:
                raise UserError(
                    str(error),
                    setting="training.budget.bytes",
                    value=self.bytes,
                    remedy="give a size such as 256MiB, or leave it out",
                ) from error
        _at_least(self.min_tile, 0, "budget.min_tile", "a tile of a negative number of tokens")
        _at_least(self.max_tile, 1, "budget.max_tile", "a tile of no tokens")
        _at_least(self.max_tile, self.min_tile, "budget.max_tile", "no tile is as small as that")


@dataclass
class PlannedBudget(BudgetConfig):
    """A share of a device that is planned for; where the least tile needs more, it takes more."""


@dataclass
class MstConfig:
    """Mini-Sequence Transformer: tiled MLPs, a chunked head, checkpointed layers."""

    mlp: MlpConfig = field(default_factory=MlpConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    block: BlockConfig = field(default_factory=BlockConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    optimizer_in_backward: bool = False
    """Step each parameter as soon as its gradient is complete and drop the gradient; not with
    gradient accumulation or clipping by the global norm."""
    sequence_parallel: int = 1
    """Processes that share one sequence (Ulysses); each holds so many-th part of it."""

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            UserError: no process, or block tiling without its parts.
        """
        _at_least(self.sequence_parallel, 1, "sequence_parallel", "a sequence held by nobody")
        if self.block.enabled and not (self.mlp.enabled and self.checkpoint.enabled):
            raise UserError(
                "block tiling tiles the MLP and computes layers again",
                setting="training.block.enabled",
                value=True,
                remedy="leave training.mlp.enabled and training.checkpoint.enabled on",
            )
        if self.block.enabled and self.mlp.recompute is not Recompute.PER_TILE:
            raise UserError(
                "block tiling computes tiles again one by one",
                setting="training.mlp.recompute",
                value=self.mlp.recompute,
                remedy="set it to per_tile, or training.block.enabled=false",
            )


@dataclass
class FaithfulConfig:
    """The source's own behaviour without its bugs: split only, c = d, M = ceil(V/d)."""

    optimizer_in_backward: bool = False
    """Step each parameter as soon as its gradient is complete and drop the gradient."""

    def as_mst(self, hidden_size: int, vocab_size: int) -> MstConfig:
        """Return the same behaviour in the settings of `training=mst`.

        Args:
            hidden_size: d, which is the tile in tokens.
            vocab_size: V; the head takes ceil(V/d) chunks of a batch.
        """
        return MstConfig(
            mlp=MlpConfig(tile_tokens=hidden_size, recompute=Recompute.NONE, kernel=Kernel.TORCH),
            head=HeadConfig(
                num_chunks=-(-vocab_size // hidden_size), strategy=HeadStrategy.RECOMPUTE
            ),
            optimizer_in_backward=self.optimizer_in_backward,
        )


def _at_least(value: int | float, least: int | float, setting: str, problem: str) -> None:
    if isinstance(least, int) and not isinstance(value, int):
        raise UserError(
            "no whole number",
            setting=f"training.{setting}",
            value=value,
            remedy=f"give a whole number from {least} on",
        )
    if not least <= value < math.inf:
        raise UserError(
            problem, setting=f"training.{setting}", value=value, remedy=f"give {least} or more"
        )


def _word(value: str, kind: type[W], setting: str) -> W:
    """Return the member of an enumeration that a word means; Python callers may give text."""
    one_of(value, tuple(kind), f"training.{setting}")
    return kind(value)


def one_of(value: str, choices: tuple[str, ...], setting: str) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        UserError: naming the nearest choice.
    """
    if value not in choices:
        raise UserError(
            "no such choice", setting=setting, value=value, remedy=nearest(value, choices)
        )
