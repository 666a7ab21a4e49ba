"""`apply_mst`: the Mini-Sequence Transformer on an instance of any causal model, reversibly.

Modules keep their classes, names and parameters: a new `forward` is bound to an instance, and taken
off again. Nothing is done to a class or a library.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from fivefold import UserError
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from .._words import AccumDtype, Kernel, Recompute, Score
from ..config import MstConfig
from ..protocol import OptimizerBuilder, TokenScores
from .agreement import agree
from .ambient import Autocast, draws_numbers
from .backends import check_installed
from .block_patch import patch_blocks
from .checkpointing import enable_checkpointing
from .discovery import (
    FoundMlp,
    Report,
    base_causal,
    find_head,
    find_mlps,
    require_mlps,
    require_named,
)
from .gated import GatedBackward, Middle, choose_middle, torch_middle
from .head_patch import SCORES, HeadSettings, patch_head
from .optimizer_in_backward import OptimizerInBackward
from .planner import peak_of
from .tiled import tiled
from .tiles import cut, head_chunk, kept_tile, mlp_tile, tile_budget
from .ulysses import SequenceShards, shard_sequences
from .undo import Undo

_HANDLE = "_fivefold_training"
_POST_NORM = "_fivefold_post_norm"
_log = logging.getLogger(__name__)


@dataclass
class PatchHandle:
    """A model with mini-sequences; leaving the context, or `revert()`, takes them off."""

    model: nn.Module
    config: MstConfig
    name: str = "mst"
    rows: list[Report] = field(default_factory=list)
    """What became of every module that was looked at."""
    shards: SequenceShards | None = None
    budget: int = 0
    """Bytes that one tile may take, the same on every process."""
    _undo: Undo = field(default_factory=Undo)
    _stepping: OptimizerInBackward | None = None

    @property
    def steps_in_backward(self) -> bool:
        """Whether parameters are stepped while backward runs."""
        return self.config.optimizer_in_backward

    @property
    def sequence_parallel(self) -> int:
        """Processes that share one sequence."""
        return self.config.sequence_parallel

    def optimizer(self, build: OptimizerBuilder, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer to use; see `TrainingHandle.optimizer`."""
        if not self.steps_in_backward:
            return build(parameters)
        self._stepping = OptimizerInBackward(build, parameters)
        return self._stepping

    def local_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's part of a batch."""
        return dict(batch) if self.shards is None else self.shards.cut(batch)

    def scores(self, output: Any, shift_labels: Int[Tensor, "batch token"]) -> TokenScores:
        """Return what evaluation needs of an output made under `torch.no_grad()`."""
        found: dict[Score, Tensor] = getattr(output, SCORES, {})
        counts = shift_labels != self.config.head.ignore_index
        if Score.NLL in found:
            correct = found[Score.ACCURACY].sum()
            return TokenScores(found[Score.NLL].sum(), correct, counts.sum())
        return logit_scores(output.logits, shift_labels, self.config.head.ignore_index)

    def predicted_peak(self, batch_size: int, seq_len: int) -> int | None:
        """Return the planner's peak of a step; see `TrainingHandle.predicted_peak`."""
        causal = base_causal(self.model)
        least = 1 if next(causal.parameters()).device.type == "cpu" else 1024
        limits = replace(
            self.config.budget,
            bytes=f"{self.budget}B",
            min_tile=self.config.budget.min_tile or least,
        )
        settings = replace(self.config, budget=limits)
        part = seq_len // self.sequence_parallel
        return peak_of(causal, lambda model: apply_mst(model, settings), batch_size, part)

    def report(self) -> list[dict[str, str]]:
        """Return one row a module that was looked at."""
        return [row.row() for row in self.rows]

    def revert(self) -> None:
        """Leave the model bit for bit as it was; a second call does nothing."""
        if self._stepping is not None:
            self._stepping.remove()
            self._stepping = None
        self._undo.revert()

    def __enter__(self) -> PatchHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.revert()


def apply_mst(
    model: nn.Module,
    config: MstConfig | None = None,
    *,
    tile_tokens: int | None = None,
    chunk_tokens: int | None = None,
    block: bool | None = None,
    checkpoint: bool | None = None,
) -> PatchHandle:
    """Let a causal model train long sequences in little memory, with the same loss and gradients.

    Apply it before DDP, FSDP2 or `Trainer` wraps the model; a PEFT model is taken as it is.

    Args:
        model: a causal model of transformers, or a PEFT model of one.
        config: all settings; the defaults when not given.
        tile_tokens: `mlp.tile_tokens`, for short.
        chunk_tokens: `head.chunk_tokens`, for short.
        block: `block.enabled`, for short.
        checkpoint: `checkpoint.enabled`, for short.

    Returns:
        A handle with `revert()` and `report()`, which is also a context manager. Applied twice with
        the same settings, the second call changes nothing and returns the first handle.

    Raises:
        UserError: nothing in the model can be tiled, its head is unknown, other settings were
            applied before, or processes disagree.

    Source: arXiv 2407.15892.
    """
    _check_types(model, config)
    settings = _with(config or MstConfig(), tile_tokens, chunk_tokens, block, checkpoint)
    causal = base_causal(model)
    held = causal.__dict__.get(_HANDLE)
    if isinstance(held, PatchHandle):
        if asdict(held.config) == asdict(settings) and held.name == "mst":
            return held
        raise UserError(
            "this model has a training method with other settings already",
            setting="training",
            value=held.name,
            remedy="call revert() on its handle first",
        )
    handle = PatchHandle(model, settings)
    try:
        _apply(handle, causal)
    except BaseException:
        handle.revert()
        raise
    return handle


def _check_types(model: object, config: object) -> None:
    """Refuse a name, a folder or a table of settings where objects are wanted."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"mini-sequences are put on a module of torch, not on a {type(model).__name__}",
            setting="model",
            remedy="give a model that is loaded, as by AutoModelForCausalLM.from_pretrained",
        )
    if not isinstance(config, MstConfig | None):
        raise UserError(
            f"settings of mini-sequences are an MstConfig, not a {type(config).__name__}",
            setting="config",
            remedy="give MstConfig(…), or leave it out",
        )


def _with(
    config: MstConfig,
    tile_tokens: int | None,
    chunk_tokens: int | None,
    block: bool | None,
    checkpoint: bool | None,
) -> MstConfig:
    if tile_tokens is not None:
        config = replace(config, mlp=replace(config.mlp, tile_tokens=tile_tokens))
    if chunk_tokens is not None:
        config = replace(config, head=replace(config.head, chunk_tokens=chunk_tokens))
    if block is not None:
        config = replace(config, block=replace(config.block, enabled=block))
    if checkpoint is not None:
        config = replace(config, checkpoint=replace(config.checkpoint, enabled=checkpoint))
    return config


def _apply(handle: PatchHandle, causal: nn.Module) -> None:
    config, undo, model = handle.config, handle._undo, handle.model
    undo.set(causal, _HANDLE, handle)
    check_installed(config.head.impl)
    first = next(causal.parameters())
    is_planned = first.device.type == "meta"
    budget = tile_budget(config.budget, first.device)
    if not is_planned:
        budget = agree(config, budget)
    handle.budget = budget
    if config.sequence_parallel > 1 and not is_planned:
        handle.shards = shard_sequences(undo, causal, config.sequence_parallel)
    blocks: frozenset[str] = frozenset()
    if config.mlp.enabled:
        # a slice that is planned for lacks layers that are named by their number
        named = [n for n in config.mlp.modules if not (is_planned and re.search(r"\d", n))]
        require_named(model, named)
        found, skipped = find_mlps(model, config.mlp.modules)
        require_mlps(found, skipped, causal)
        middle = torch_middle if is_planned else choose_middle(config.mlp.kernel, first.device)
        if config.block.enabled:
            rows = patch_blocks(undo, model, found, config, _tile_of(config, budget, first), middle)
            handle.rows += rows
            blocks = frozenset(row.module for row in rows if row.state == "block")
        for mlp in found:
            if not any(mlp.name.startswith(f"{name}.") for name in blocks):
                handle.rows.append(_patch_mlp(undo, mlp, config, budget, first, middle))
        handle.rows += skipped
    if config.head.enabled:
        handle.rows.append(_patch_head(undo, causal, config, budget, first))
    if config.checkpoint.enabled:
        handle.rows += enable_checkpointing(undo, model, config.checkpoint.offload, blocks)
    elif not is_planned and not (dist.is_initialized() and dist.get_rank()):
        _log.warning(
            "training.checkpoint.enabled=false: mini-sequences save little without checkpointed "
            "layers, unless somebody else checkpoints them (gradient_checkpointing=True)"
        )


def _tile_of(config: MstConfig, budget: int, first: Tensor) -> Callable[[int], int]:
    """Return what says the tile of an MLP of some width."""
    on_cpu = first.device.type in ("cpu", "meta")

    def tile(width: int) -> int:
        given = config.mlp.tile_tokens
        return given or mlp_tile(config.budget, budget, width, first.element_size(), on_cpu)

    return tile


def _patch_mlp(
    undo: Undo, mlp: FoundMlp, config: MstConfig, budget: int, first: Tensor, middle: Middle
) -> Report:
    tile = _tile_of(config, budget, first)(mlp.width)
    activation = "" if mlp.post_norm is not None else mlp.activation
    if not activation and config.mlp.kernel is Kernel.TRITON:
        raise UserError(
            f"the Triton kernel is for gated MLPs of plain linear layers, not for {mlp.name}",
            setting="training.mlp.kernel",
            value=config.mlp.kernel,
            remedy="set training.mlp.kernel=auto",
        )
    before = mlp.module.__dict__.get("forward")
    forward = _mlp_forward(before, tile, config, activation, middle)
    undo.set(mlp.module, "forward", MethodType(forward, mlp.module))
    undo.set(mlp.module, _POST_NORM, mlp.post_norm)
    why = f"{tile} tokens a tile, width {mlp.width}"
    if mlp.post_norm is not None:
        undo.set(mlp.post_norm, "forward", MethodType(_identity, mlp.post_norm))
        why += ", with the norm that follows"
    if activation:
        why += f", backward by hand ({'torch' if middle is torch_middle else 'triton'})"
    return Report(mlp.name, "tiled", why)


def _mlp_forward(
    before: Callable[..., Any] | None, tile: int, config: MstConfig, activation: str, middle: Middle
) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a forward that finds everything through `self`, so that a deep copy has its own."""
    settings = config.mlp

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        original = before or functools.partial(type(self).forward, self)
        norm: nn.Module | None = self.__dict__[_POST_NORM]

        def rows(part: Tensor) -> Tensor:
            made: Tensor = original(part)
            return made if norm is None else type(norm).forward(norm, made)

        count = x.numel() // x.shape[-1]
        if count <= tile:  # one tile saves nothing: the model's own operations
            return rows(x)
        if settings.recompute is Recompute.NONE:
            flat = x.reshape(count, x.shape[-1])
            size = kept_tile(tile, count, is_planned=x.is_meta)
            parts = [rows(flat[part]) for part in cut(count, size)]
            return torch.cat(parts).reshape(*x.shape[:-1], -1)
        by_hand = GatedBackward(self, activation, middle)
        hand = by_hand if by_hand.suits(Autocast.capture(x.device)) else None
        owners = [self] if norm is None else [self, norm]
        parameters = [each for owner in owners for each in owner.parameters()]
        return tiled(
            rows, x, parameters if hand is None else hand.parameters, tile,
            save_first=settings.save_first,
            in_float32=settings.accum_dtype is AccumDtype.FLOAT32,
            draws_numbers=any(draws_numbers(owner) for owner in owners),
            by_hand=hand,
        )  # fmt: skip

    return forward


def _identity(self: nn.Module, x: Tensor) -> Tensor:
    return x


def _patch_head(undo: Undo, causal: Any, config: MstConfig, budget: int, first: Tensor) -> Report:
    name, head = find_head(causal)
    weight = getattr(getattr(head, "base_layer", head), "weight", None)
    vocab = int(causal.config.get_text_config().vocab_size if weight is None else weight.shape[0])
    chunk = config.head.chunk_tokens or head_chunk(
        config.budget, budget, vocab, first.element_size(), first.device.type in ("cpu", "meta")
    )
    patch_head(undo, causal, name, head, HeadSettings(config.head, chunk, config.sequence_parallel))
    why = f"{chunk} tokens a chunk, {vocab} scores a token, {config.head.impl}"
    return Report(name, "chunked", why)


def logit_scores(logits: Tensor, shift_labels: Tensor, ignore_index: int = -100) -> TokenScores:
    """Return what evaluation needs from ordinary scores, [batch, token, vocab]."""
    flat, labels = logits.flatten(0, 1), shift_labels.flatten()
    nll = nn.functional.cross_entropy(
        flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat,
        labels, reduction="sum", ignore_index=ignore_index,
    )  # fmt: skip
    counts = labels != ignore_index
    correct = ((flat.argmax(-1) == labels) & counts).sum()
    return TokenScores(nll, correct, counts.sum())
