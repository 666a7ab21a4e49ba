"""Which layers can be tiled as blocks, and putting the tiled forward on them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .._words import AccumDtype, Offload
from ..config import MstConfig
from .ambient import Autocast, draws_numbers
from .block import BlockCall, BlockTiles, tiled_block
from .checkpointing import find_layers
from .discovery import FoundMlp, Report, source_of
from .gated import Middle
from .offload import HostStore
from .undo import Undo

PRE_NORM = ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"]
"""What a layer of Llama's kind calls, in order."""
SANDWICH = [*PRE_NORM[:3], "pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"]
"""What a layer of Gemma's kind calls."""
_CALL = re.compile(r"= self\.(\w+)\(|, _ = self\.(\w+)\(")
_PROJECTION = re.compile(r"self\.(\w+_proj)\(")
_RESIDUAL = re.compile(r"hidden_states = residual \+ hidden_states\n")
_PROBE_TOKENS = 5


def patch_blocks(
    undo: Undo,
    model: nn.Module,
    mlps: Sequence[FoundMlp],
    config: MstConfig,
    tile_of: Callable[[int], int],
    middle: Middle,
) -> list[Report]:
    """Tile every layer whose forward is one that is known, and say why others are left.

    The first layer of each kind is compared with its own forward on a few random rows.
    """
    by_layer = {mlp.name.rpartition(".")[0]: mlp for mlp in mlps}
    store = HostStore() if config.checkpoint.offload is Offload.CPU else None
    in_float32 = config.mlp.accum_dtype is AccumDtype.FLOAT32
    rows: list[Report] = []
    verdicts: dict[type, str] = {}
    for name, layer in find_layers(model):
        mlp = by_layer.get(name)
        if mlp is None:
            continue
        activation = "" if "post_feedforward_layernorm" in _calls(layer) else mlp.activation
        passes_window = "sliding_window=" in source_of(getattr(layer, "self_attn", layer))
        tiles = BlockTiles(tile_of(mlp.width), activation, middle, in_float32, store, passes_window)
        kind = type(layer)
        if kind not in verdicts:
            verdicts[kind] = why_not(layer) or _differs(layer, tiles)
        if verdicts[kind]:
            rows.append(Report(name, "skipped", f"block tiling: {verdicts[kind]}"))
            continue
        before = layer.__dict__.get("forward")
        undo.set(layer, "forward", MethodType(_layer_forward(before, tiles), layer))
        rows.append(Report(name, "block", f"{tiles.tile} tokens a tile, all but attention itself"))
    return rows


def why_not(layer: nn.Module) -> str:
    """Say why a layer cannot be tiled as a block; nothing when it can."""
    if _calls(layer) not in (PRE_NORM, SANDWICH) or len(_RESIDUAL.findall(source_of(layer))) != 2:
        return "its forward is not one that is known"
    attention = layer.self_attn
    assert isinstance(attention, nn.Module)
    text = source_of(attention)
    projections = _PROJECTION.findall(text)
    rotates = "apply_rotary_pos_emb(" in text
    if projections != ["q_proj", "k_proj", "v_proj", "o_proj"] or not rotates:
        return "its attention is not one that is known"
    if getattr(attention, "attention_dropout", 0) or draws_numbers(layer):
        return "it draws random numbers"
    return ""


def _calls(module: nn.Module) -> list[str]:
    return [a or b for a, b in _CALL.findall(source_of(module))]


def _layer_forward(before: Callable[..., Any] | None, tiles: BlockTiles) -> Callable[..., Any]:
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        wants_cache = kwargs.get("past_key_values") is not None or kwargs.get("use_cache")
        if not (self.training and torch.is_grad_enabled()) or args or wants_cache:
            original = before or functools.partial(type(self).forward, self)
            return original(hidden_states, *args, **kwargs)
        return tiled_block(self, hidden_states, tiles, kwargs)

    return forward


@torch.no_grad()
def _differs(layer: nn.Module, tiles: BlockTiles) -> str:
    """Compare a layer's own forward with the tiled one; say so when they differ."""
    weight = next(layer.parameters())
    if weight.device.type == "meta":
        return ""
    source = torch.Generator().manual_seed(0)
    attention: Any = layer.self_attn
    shape = (1, _PROBE_TOKENS, attention.q_proj.in_features)
    x = torch.randn(shape, generator=source).to(weight)
    angles = torch.randn(1, _PROBE_TOKENS, attention.head_dim, generator=source).to(weight)
    given = {"position_embeddings": (angles.cos(), angles.sin()), "attention_mask": None}
    was_training = layer.training
    layer.eval()
    try:
        wanted = type(layer).forward(layer, x, **given)
        probe = replace(tiles, tile=2, store=None)
        made = BlockCall(layer, probe, given, Autocast.capture(x.device)).forward(x)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        return f"its parts do not fit together: {error}".splitlines()[0]
    finally:
        layer.train(was_training)
    if not isinstance(wanted, Tensor) or wanted.shape != made.shape:
        return "it returns more than hidden states"
    difference = float((wanted.float() - made.float()).abs().max())
    limit = 0.05 if weight.element_size() < 4 else 1e-4
    scale = max(1.0, float(wanted.float().abs().max()))
    return "" if difference <= limit * scale else f"its result differs by {difference:.1e}"
