"""A slice of a model that holds no memory: its layers, its attention, its masks.

Attention takes what the model's own implementation takes. Where the config names none it is exact
attention without scores, as FlashAttention and sdpa run it; `sdpa` also has masks where a sliding
window is shorter than the sequence; `eager` has scores of all pairs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

EAGER, SDPA = "eager", "sdpa"
_FULL, _SLIDING = "full_attention", "sliding_attention"


def meta_model(config: PretrainedConfig, layers: int, dtype: torch.dtype) -> nn.Module:
    """Return a model of so many layers that holds no memory, with gradients allocated."""
    part = copy.deepcopy(config)
    part.num_hidden_layers = layers
    if kinds := getattr(part, "layer_types", None):
        part.layer_types = [kinds[place % len(kinds)] for place in range(layers)]
    takes = {EAGER: _with_scores, SDPA: _with_windows}.get(implementation(config), _without_scores)
    name = f"fivefold_planned{takes.__name__}"
    ALL_ATTENTION_FUNCTIONS.register(name, takes)
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        made: PreTrainedModel = auto.from_config(part, dtype=dtype)
    made.config._attn_implementation_internal = name
    made.train()
    for weight in made.parameters():
        weight.grad = torch.empty_like(weight)
    return made


def implementation(config: PretrainedConfig) -> str:
    """Return the attention implementation that a config names; empty: none."""
    return getattr(config, "_attn_implementation", None) or ""


def masks(
    config: PretrainedConfig, batch_size: int, seq_len: int, dtype: torch.dtype
) -> Tensor | dict[str, Tensor | None] | None:
    """Return the mask that a model of whole rows makes, or that of each kind of layers.

    Args:
        config: of the model.
        batch_size: rows.
        seq_len: tokens of a row.
        dtype: of activations.
    """
    text: Any = config.get_text_config()
    window: int | None = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or [_FULL if window is None else _SLIDING])
    is_windowed = implementation(config) == SDPA and window is not None and seq_len >= window
    if not kinds <= {_FULL, _SLIDING}:
        return None
    made: dict[str, Tensor | None] = dict.fromkeys(sorted(kinds))
    for kind in made:
        if implementation(config) == EAGER:
            made[kind] = torch.empty(batch_size, 1, seq_len, seq_len, dtype=dtype, device="meta")
        elif is_windowed and kind == _SLIDING:
            made[kind] = torch.empty(1, 1, seq_len, seq_len, dtype=torch.bool, device="meta")
    return made if len(made) > 1 else made.popitem()[1]


def _without_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Take the memory of exact attention without scores: queries, keys, values, sums of rows."""
    return _flash(query, key, value, scaling, None), None


def _with_windows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Take what transformers' sdpa takes; a window's mask is a number a pair, kept for backward."""
    batch, _heads, tokens, _dim = query.shape
    if sliding_window is None or tokens < sliding_window:
        return _without_scores(module, query, key, value, scaling=scaling)
    key, value = _repeated(query, key, value)
    mask = query.new_empty(batch, 1, tokens, tokens)
    return _flash(query, key, value, scaling, mask), None


def _with_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Take the memory of transformers' eager attention: scores and law of every pair."""
    key, value = _repeated(query, key, value)
    scores = (query @ key.mT) * (scaling or 1.0)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + scores.new_empty(())  # the mask, which nothing keeps
    law = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (law @ value).transpose(1, 2).contiguous(), None


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None
) -> Tensor:
    """Run the operator that keeps no scores: causal, or with a mask; [batch, token, head, dim]."""
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, mask is None, attn_mask=mask, scale=scaling
    )
    out: Tensor = made[0]
    return out.transpose(1, 2).contiguous()


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values once for every head of the queries."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
