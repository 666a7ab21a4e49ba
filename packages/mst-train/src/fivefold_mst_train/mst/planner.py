"""The peak of a training step before it runs: the step itself, on tensors that hold no memory.

A slice of two or three layers of the model is made on torch's meta device and trained for one step
under the counter of `live_bytes.py`: the same modules, the same tiles, the same autograd, at the
real sequence length. What a layer adds is the difference of the two slices, so the whole model's
peak follows exactly as counted, with nothing fitted. What counting cannot see (workspaces inside
kernels, the allocator's rounding) is left to a margin.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..live_bytes import LiveBytes

Apply = Callable[[nn.Module], AbstractContextManager[object]]
"""Puts a training method on a model."""
NAME = "fivefold_planned"
"""The attention implementation of models that are planned for."""
WITH_SCORES = "fivefold_planned_eager"
"""The same for models that make scores of all pairs (`attn_implementation=eager`)."""
SLICES = (2, 3)
"""Layers of the models that are really run."""


@dataclass(frozen=True)
class Peak:
    """The peak of one step, in bytes, over parameters, gradients and optimizer state."""

    total: int
    """Of the whole model."""
    per_layer: int
    """What each layer adds: its checkpoint, or all it keeps for backward."""
    working: int
    """The rest: what one layer or the head needs while it works."""


def meta_model(config: PretrainedConfig, layers: int, dtype: torch.dtype) -> nn.Module:
    """Return a model of so many layers that holds no memory, with gradients allocated."""
    part = copy.deepcopy(config)
    part.num_hidden_layers = layers
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[:layers]
    has_scores = getattr(config, "_attn_implementation", None) == "eager"
    name = WITH_SCORES if has_scores else NAME
    ALL_ATTENTION_FUNCTIONS.register(name, _attention_with_scores if has_scores else _attention)
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        made: PreTrainedModel = auto.from_config(part, dtype=dtype)
    made.config._attn_implementation_internal = name
    made.train()
    for weight in made.parameters():
        weight.grad = torch.empty_like(weight)
    return made


def simulate(
    config: PretrainedConfig,
    apply: Apply,
    batch_size: int,
    seq_len: int,
    dtype: torch.dtype,
    layers: int,
) -> int:
    """Count the bytes of one forward and backward of a slice of a model.

    Args:
        config: the whole model's.
        apply: puts the training method on it.
        batch_size: rows.
        seq_len: tokens of a row.
        dtype: of weights and activations.
        layers: of the slice.
    """
    model = meta_model(config, layers, dtype)
    tokens = torch.empty(batch_size, seq_len, dtype=torch.long, device="meta")
    with apply(model), LiveBytes() as counter:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    return counter.peak


def predict_peak(
    config: PretrainedConfig, apply: Apply, batch_size: int, seq_len: int, dtype: torch.dtype
) -> Peak:
    """Return the peak of a training step of a whole model (see `simulate`)."""
    config = _reaching(config, seq_len)
    few, more = (simulate(config, apply, batch_size, seq_len, dtype, n) for n in SLICES)
    per_layer = (more - few) // (SLICES[1] - SLICES[0])
    layers = int(config.num_hidden_layers)
    total = few + (layers - SLICES[0]) * per_layer
    return Peak(total, per_layer, total - layers * per_layer)


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
    """
    low, high = step, 4 * step
    first, second = (predict_peak(config, apply, batch_size, n, dtype) for n in (low, high))
    known = {low: first.total - room, high: second.total - room}
    a_token = (second.per_layer - first.per_layer) / (high - low)
    more = int(config.num_hidden_layers) - SLICES[0]
    is_affine = getattr(config, "_attn_implementation", None) != "eager"

    def over(tokens: int) -> int:
        if tokens not in known and is_affine:  # one slice is enough: what a layer adds is known
            few = simulate(_reaching(config, tokens), apply, batch_size, tokens, dtype, SLICES[0])
            layer = first.per_layer + a_token * (tokens - step)
            known[tokens] = few + int(more * layer) - room
        elif tokens not in known:
            known[tokens] = predict_peak(config, apply, batch_size, tokens, dtype).total - room
        return known[tokens]

    def crossing(low: int, high: int) -> int:
        slope = max(1e-9, (over(high) - over(low)) / (high - low))
        return int(low - over(low) / slope) // step * step

    if over(low) > 0:
        return 0
    while over(high) <= 0:
        low, high = high, max(high + step, min(crossing(low, high) + step, 8 * high))
    while high - low > step:
        guess = min(max(crossing(low, high), low + step), high - step)
        if over(guess) > 0:
            high = guess
            continue
        low = guess
        if high - low > step and over(low + step) > 0:
            high = low + step
    return low


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Take the memory of exact attention without scores: queries, keys, values, sums of rows."""
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, scale=scaling
    )
    out: Tensor = made[0]
    return out.transpose(1, 2).contiguous(), None


def _attention_with_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Take the memory of transformers' eager attention: scores, mask, law, for every pair."""
    groups = query.shape[1] // key.shape[1]
    key, value = (
        each.repeat_interleave(groups, 1) if groups > 1 else each for each in (key, value)
    )
    scores = (query @ key.mT) * (scaling or 1.0)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + scores.new_empty(1, 1, *scores.shape[2:])
    law = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (law @ value).transpose(1, 2).contiguous(), None
