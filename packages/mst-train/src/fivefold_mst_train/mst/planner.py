"""The peak of a training step before it runs: the step itself, on tensors that hold no memory.

Two slices of the model, one some layers longer than the other, are made on torch's meta device and
trained for one step under the counter of `live_bytes.py`: the same modules, the same tiles, the
same autograd, at the real sequence length. What a layer adds is the difference of the slices, so
the whole model's peak follows exactly as counted, with nothing fitted. It is taken twice: up to
where all layers are done in backward, and for the embedding after them, whose gradient may be the
peak of a slice and not that of the model. What counting cannot see (workspaces inside kernels, the
allocator's rounding) is left to a margin.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from fivefold import UserError
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..live_bytes import LiveBytes
from .planned_model import masks, meta_model

Apply = Callable[[nn.Module], AbstractContextManager[object]]
"""Puts a training method on a model."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peak:
    """The peak of one step, in bytes, over parameters, gradients and optimizer state."""

    total: int
    """Of the whole model."""
    per_layer: int
    """What each layer adds: its checkpoint, or all it keeps for backward."""
    working: int
    """The rest: what one layer or the head needs while it works."""


@dataclass(frozen=True)
class Counted:
    """What one step of a slice took at its peaks, in bytes."""

    layers: int
    """Until backward leaves the first layer."""
    embedding: int
    """From then on."""


def simulate(
    config: PretrainedConfig,
    apply: Apply,
    batch_size: int,
    seq_len: int,
    dtype: torch.dtype,
    layers: int,
) -> Counted:
    """Count the bytes of one forward and backward of a slice of a model.

    Args:
        config: the whole model's.
        apply: puts the training method on it.
        batch_size: rows.
        seq_len: tokens of a row.
        dtype: of weights and activations.
        layers: of the slice.
    """
    model: Any = meta_model(config, layers, dtype)
    tokens = torch.empty(batch_size, seq_len, dtype=torch.long, device="meta")
    peaks: list[int] = []
    with apply(model), LiveBytes() as counter:

        def leave_layers(_: Tensor) -> None:
            peaks.append(counter.peak)
            counter.reset_peak()

        def watch(_: nn.Module, __: object, embedded: Tensor) -> None:
            embedded.register_hook(leave_layers)

        model.get_input_embeddings().register_forward_hook(watch)
        loss = model(
            input_ids=tokens, labels=tokens, use_cache=False,
            attention_mask=masks(config, batch_size, seq_len, dtype),
        ).loss  # fmt: skip
        loss.backward()
    return Counted(max(peaks, default=0), counter.peak)


def predict_peak(
    config: PretrainedConfig, apply: Apply, batch_size: int, seq_len: int, dtype: torch.dtype
) -> Peak:
    """Return the peak of a training step of a whole model (see `simulate`)."""
    config = _reaching(config, seq_len)
    layers, slices = int(config.num_hidden_layers), _slices(config)
    few, more = (simulate(config, apply, batch_size, seq_len, dtype, n) for n in slices)

    def whole(few: int, more: int) -> int:
        return few + (layers - slices[0]) * (more - few) // (slices[1] - slices[0])

    per_layer = (more.layers - few.layers) // (slices[1] - slices[0])
    total = max(whole(few.layers, more.layers), whole(few.embedding, more.embedding))
    return Peak(total, per_layer, total - layers * per_layer)


def _slices(config: PretrainedConfig) -> tuple[int, int]:
    """Return how many layers are run: twice a whole period where kinds of layers alternate."""
    kinds = list(getattr(config, "layer_types", None) or [""])
    period = next(
        n for n in range(1, len(kinds) + 1) if all(k == kinds[i % n] for i, k in enumerate(kinds))
    )
    return (2, 3) if period == 1 else (period, 2 * period)


def peak_of(causal: nn.Module, apply: Apply, batch_size: int, seq_len: int) -> int | None:
    """Return the peak of a training step of a model that is there.

    None where it is not known: adapters are trained, which keep other tensors than the whole model
    does, or an operation of the model has no shape function. The log says so.

    Args:
        causal: a causal model of transformers.
        apply: puts the training method on it.
        batch_size: rows.
        seq_len: tokens of a row.
    """
    if not all(weight.requires_grad for weight in causal.parameters()):
        _log.info("the peak is not predicted where a part of the weights is trained")
        return None
    model: Any = causal
    dtype = next(causal.parameters()).dtype
    try:
        return predict_peak(model.config, apply, batch_size, seq_len, dtype).total
    except (UserError, NotImplementedError, RuntimeError) as error:
        _log.warning("the peak cannot be predicted: %s", str(error).partition("\n")[0])
        return None


def _reaching(config: PretrainedConfig, seq_len: int) -> PretrainedConfig:
    """Return a config whose positions reach so far, which is no question of memory."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and seq_len > longest:
        config = copy.deepcopy(config)
        config.max_position_embeddings = seq_len
    return config


def longest_sequence(
    config: PretrainedConfig,
    apply: Apply,
    batch_size: int,
    dtype: torch.dtype,
    room: int,
    step: int = 256,
    known: Mapping[int, int] | None = None,
) -> int:
    """Return the longest sequence whose peak fits into `room` bytes; 0: none.

    The peak rises nearly in proportion to the length, so lines through two known lengths lead to
    the end of the room after a few steps; the length after the one that is returned was tried.

    Args:
        config: of the model.
        apply: puts the training method on it.
        batch_size: rows.
        dtype: of weights and activations.
        room: bytes.
        step: to a multiple of so many tokens.
        known: peaks that were predicted already, by length.
    """
    peaks = dict(known or {})

    def over(tokens: int) -> int:
        if tokens not in peaks:
            peaks[tokens] = predict_peak(config, apply, batch_size, tokens, dtype).total
        return peaks[tokens] - room

    def crossing(low: int, high: int) -> int:
        slope = max(1e-9, (over(high) - over(low)) / (high - low))
        return int(low - over(low) / slope) // step * step

    low = step
    high = next((tokens for tokens in peaks if tokens > low and tokens % step == 0), 16 * step)
    if over(low) > 0:
        return 0
    while over(high) <= 0:
        low, high = high, max(high + step, min(crossing(low, high) + step, 64 * high))
    while high - low > step:
        guess = min(max(crossing(low, high), low + step), high - step)
        if over(guess) > 0:
            high = guess
            continue
        low = guess
        if high - low > step and over(low + step) > 0:
            high = low + step
    return low
