"""A causal model whose loss is computed chunk by chunk; everything else is its own forward."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from fivefold import UserError
from torch import Tensor, nn
from torch.nn import functional as F

from .._words import HeadImpl, Score
from ..config import HeadConfig
from .backends import backend_loss
from .chunk_loss import Head, LinearHead, LossTerms, OpaqueHead, Transform
from .deferred import AbsentScores, DeferredScores, DeferringHead
from .linear_cross_entropy import HeadOutput, chunked_loss
from .undo import Undo

SCORES = "token_scores"
"""The attribute of a model's output that holds what `training.head.returns` asks for."""


@dataclass(frozen=True)
class HeadSettings:
    """What the patched forward needs to know, the same on every process."""

    config: HeadConfig
    chunk: int
    """Tokens of a chunk."""
    sequence_parallel: int = 1
    """Processes that share a sequence: each sees so many-th part of its positions."""

    def chunk_of(self, tokens: int) -> int:
        """Return the tokens of a chunk of a batch of so many tokens."""
        if self.config.num_chunks:
            return max(1, -(-tokens // self.config.num_chunks))
        return self.chunk

    def terms(self, *, with_metrics: bool) -> LossTerms:
        """Return what the loss is made of; evaluation also counts what is right."""
        wanted = {Score(each) for each in self.config.returns} - {Score.LOSS}
        if with_metrics:
            wanted |= {Score.NLL, Score.ACCURACY}
        return LossTerms(
            self.config.ignore_index,
            self.config.label_smoothing,
            self.config.z_loss,
            frozenset(wanted),
        )


@dataclass
class LossRequest:
    """What the head is asked for in place of scores."""

    labels: Tensor
    num_items: Tensor | int | None
    transform: Transform | None
    settings: HeadSettings
    with_metrics: bool
    scores: dict[Score, Tensor] = field(default_factory=dict)
    """Filled by the head."""


def patch_head(
    undo: Undo, causal: nn.Module, name: str, head: nn.Module, settings: HeadSettings
) -> None:
    """Let a causal model compute its loss without scores of the whole sequence.

    The loss is computed inside the head's own forward, so that what wraps the head (FSDP's
    gathering, DDP, an adapter) does so once, around all chunks.
    """
    undo.set(head, "forward", MethodType(_head_forward(head.__dict__.get("forward")), head))
    before = causal.__dict__.get("forward")
    undo.set(causal, "forward", MethodType(_causal_forward(causal, before, name, settings), causal))


def _head_forward(before: Callable[..., Any] | None) -> Callable[..., Any]:
    def forward(self: nn.Module, hidden: Tensor, *, request: LossRequest | None = None) -> Tensor:
        original = before or functools.partial(type(self).forward, self)
        if request is None:
            scores: Tensor = original(hidden)
            return scores
        output = _requested(self, original, hidden, request)
        request.scores = output.scores
        return output.loss

    return forward


def _requested(
    module: nn.Module, original: Callable[[Tensor], Tensor], hidden: Tensor, request: LossRequest
) -> HeadOutput:
    config = request.settings.config
    chunk = request.settings.chunk_of(request.labels.numel())
    head = describe_head(module, original, request.transform)
    terms = request.settings.terms(with_metrics=request.with_metrics)
    if config.impl is not HeadImpl.EAGER and torch.is_grad_enabled():
        return backend_loss(
            config.impl, head, hidden, request.labels, request.num_items, terms,
            chunk,
        )  # fmt: skip
    return chunked_loss(
        head, hidden, request.labels,
        num_items=request.num_items, chunk_tokens=chunk, terms=terms,
        strategy=config.strategy, in_float32=config.accum_dtype == "float32",
        drop_ignored=config.drop_ignored,
    )  # fmt: skip


def describe_head(
    module: nn.Module, function: Callable[[Tensor], Tensor], transform: Transform | None
) -> Head:
    """Say how a head's scores are made: by a plain weight, or only by calling it."""
    kind = type(module)
    is_plain = isinstance(module, nn.Linear) and (
        kind is nn.Linear or inspect.unwrap(kind.forward) is nn.Linear.forward
    )
    if is_plain:
        linear: Any = module
        return LinearHead(linear.weight, linear.bias, transform)
    trainable = [each for each in module.parameters() if each.requires_grad]
    return OpaqueHead(function, trainable, transform)


def _causal_forward(
    causal: nn.Module,
    before: Callable[..., Any] | None,
    name: str,
    settings: HeadSettings,
) -> Callable[..., Any]:
    original_function = type(causal).forward
    signature = inspect.signature(original_function)
    rest = next(
        (each.name for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD), ""
    )

    @functools.wraps(original_function)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        original = before or functools.partial(type(self).forward, self)
        given = signature.bind_partial(self, *args, **kwargs).arguments
        named = given.get(rest, {})
        labels, shifted = given.get("labels"), named.get("shift_labels", given.get("shift_labels"))
        if labels is None and shifted is None:
            return original(*args, **kwargs)
        _check_length(self, given, settings.sequence_parallel)
        if self.training and "use_cache" in signature.parameters and given.get("use_cache") is None:
            kwargs["use_cache"] = False
        if labels is None:
            kwargs["labels"] = shifted
        as_tuple = _wants_tuple(self, given, named)
        kwargs["return_dict"] = True
        loss = _Loss(self, getattr(self, name), settings)
        output = _run_deferred(self, name, original, loss, args, kwargs)
        output.logits = None
        if as_tuple:
            return output.to_tuple()
        if not self.training:
            output.logits = AbsentScores()
        setattr(output, SCORES, loss.scores)
        return output

    return forward


def _run_deferred(
    model: nn.Module,
    name: str,
    original: Callable[..., Any],
    loss: _Loss,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a model's own forward around a head that defers and a loss that is ours."""
    undo = Undo()
    undo.set(model, name, DeferringHead(getattr(model, name)))
    undo.set(model, "_loss_function", loss)
    try:
        output = original(*args, **kwargs)
    finally:
        undo.revert()
    if not loss.was_called:
        raise UserError(
            f"{type(model).__name__} computes its loss in a way of its own",
            setting="training.head.enabled",
            value=True,
            remedy="set training.head.enabled=false to tile the MLPs alone",
        )
    return output


class _Loss:
    """The model's `loss_function` for one call."""

    def __init__(self, model: nn.Module, head: nn.Module, settings: HeadSettings) -> None:
        self._model, self._head, self._settings = model, head, settings
        self.scores: dict[Score, Tensor] = {}
        self.was_called = False

    def __call__(
        self,
        logits: DeferredScores,
        labels: Tensor | None = None,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Compute the loss that transformers' `ForCausalLMLoss` does, from deferred scores."""
        self.was_called = True
        config = self._settings.config
        if shift_labels is None:
            assert labels is not None
            # once, before anything is cut: position t is to say token t + 1
            shift_labels = F.pad(labels, (0, 1), value=config.ignore_index)[..., 1:]
        request = LossRequest(
            shift_labels, num_items_in_batch, logits.transform, self._settings,
            with_metrics=not torch.is_grad_enabled(),
        )  # fmt: skip
        loss: Tensor = self._head(logits.hidden, request=request)
        self.scores = request.scores
        return loss


def _check_length(model: nn.Module, given: dict[str, Any], sequence_parallel: int) -> None:
    tokens = given.get("input_ids")
    tokens = given.get("inputs_embeds") if tokens is None else tokens
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if tokens is None or not limit:
        return
    length = tokens.shape[1] * sequence_parallel
    if length > limit:
        raise UserError(
            f"a sequence of {length} tokens is longer than the model's {limit} positions",
            setting="seq_len",
            value=length,
            remedy=f"give {limit} or fewer, or a model whose positions reach further",
        )


def _wants_tuple(model: nn.Module, given: dict[str, Any], named: dict[str, Any]) -> bool:
    asked = named.get("return_dict", given.get("return_dict"))
    if asked is None:
        asked = getattr(getattr(model, "config", None), "return_dict", True)
    return not asked
