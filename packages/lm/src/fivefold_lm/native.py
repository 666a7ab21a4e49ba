"""A Llama-family decoder in one native call a pass, over the KV cache of the engine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fivefold_kernels import (
    DecoderPass,
    DecoderWeights,
    LayerWeights,
    PackedMatrix,
    UnsupportedError,
)
from fivefold_kernels.decoder.cpu import Scores
from fivefold_kernels.decoder.weights import M
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .cache import KVCache
from .layout import FULL, Layout, decoder_config
from .packed import NativeProduct, PackedLinear

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose layers are norm, attention, norm, gated feed-forward, as in the pass."""
_ANGLES = 1024  # positions whose angles are computed at once


class NativeDecoder:
    """Runs tree nodes through all layers in one call (see `fivefold_kernels.DecoderPass`)."""

    def __init__(self, module: PreTrainedModel, library: ctypes.CDLL) -> None:
        """Prepare a module whose linear layers are packed for our kernels.

        Raises:
            UnsupportedError: a size that the kernels do not take.
        """
        self.weights = weights_of(module, _matrix)
        self.run = DecoderPass(self.weights, library)
        self.spans: Callable[[], Iterable[tuple[int, int]]] | None = None
        """Says which layers of a pass are run at once, where not all are there at once."""
        self.cache_dtype = module.dtype
        self._rotary: nn.Module = module.base_model.rotary_emb  # type: ignore[assignment]
        self._cosine = self._sine = torch.empty(0, self.weights.dim // 2)

    def __call__(
        self,
        cache: KVCache,
        inputs: Float[Tensor, "batch node hidden"],
        positions: Int[Tensor, "batch node"],
        visible: Bool[Tensor, "batch node pending"],
        want_logits: bool,
        seconds: list[float] | None = None,
    ) -> Scores:
        """Run nodes that the cache is open for; write their keys and values into it.

        Args:
            cache: a plain one, opened for the nodes.
            inputs: embeddings.
            positions: of each node in its row's text.
            visible: among all pending nodes, the new ones last: ancestors and itself.
            want_logits: run the output layer.
            seconds: a list to which the time of each stage is added.
        """
        w = self.weights
        keys, values = cache.planes(w.kv_heads, w.dim, self.cache_dtype, self.run.library)
        self._extend(int(positions.max()))
        return self.run(
            inputs,
            self._cosine[positions],
            self._sine[positions],
            cache.lengths,
            visible,
            keys,
            values,
            want_logits=want_logits,
            seconds=seconds,
            spans=None if self.spans is None else self.spans(),
        )

    def head(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Score hidden states of a pass as the pass does, bit for bit."""
        assert self.weights.head is not None
        return self.weights.head.product(hidden)

    def _extend(self, last: int) -> None:
        """Compute the angles of positions up to `last` by the module's own rotary embedding."""
        while self._cosine.shape[0] <= last:
            first = self._cosine.shape[0]
            positions = torch.arange(first, first + _ANGLES)[None]
            cosine, sine = self._rotary(torch.empty(1, 1, 1), positions)
            half = self.weights.dim // 2
            self._cosine = torch.cat([self._cosine, cosine[0, :, :half]])
            self._sine = torch.cat([self._sine, sine[0, :, :half]])


def why_no_pass(module: PreTrainedModel) -> str | None:
    """Say why a model cannot run in one call a pass; None when it can."""
    config = decoder_config(module)
    rope: Any = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in FAMILY:
        return f"{config.model_type} is none of {', '.join(FAMILY)}"
    if set(Layout.of(module).types) != {FULL}:
        return "not every layer sees the whole prefix"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if rope.get("rope_type") in ("dynamic", "longrope"):
        return f"its rotary frequencies ({rope['rope_type']}) change with the length of the text"
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        return "only a part of each head is rotated"
    return None


def weights_of(module: PreTrainedModel, matrix: Callable[[Any], M]) -> DecoderWeights[M]:
    """Collect the weights of a Llama-family module, with or without an output layer.

    Args:
        module: the model, or its decoder.
        matrix: what a linear layer's weights become.
    """
    decoder: Any = module.base_model
    config = decoder_config(module)
    head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    heads = int(config.num_attention_heads)
    return DecoderWeights(
        layers=tuple(_layer(layer, matrix) for layer in decoder.layers),
        final_norm=_norm(decoder.norm),
        head=None if head is None or decoder is module else matrix(head),
        heads=heads,
        kv_heads=int(config.num_key_value_heads),
        dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        eps=float(config.rms_norm_eps),
        scale=float(decoder.layers[0].self_attn.scaling),
    )


def layer_weights(layer: Any) -> LayerWeights[PackedMatrix]:
    """Collect the packed weights of one layer."""
    return _layer(layer, _matrix)


def _layer(layer: Any, matrix: Callable[[Any], M]) -> LayerWeights[M]:
    attention, feed = layer.self_attn, layer.mlp
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return LayerWeights(
        input_norm=_norm(layer.input_layernorm),
        post_norm=_norm(layer.post_attention_layernorm),
        query=matrix(attention.q_proj),
        key=matrix(attention.k_proj),
        value=matrix(attention.v_proj),
        output=matrix(attention.o_proj),
        gate=matrix(feed.gate_proj),
        up=matrix(feed.up_proj),
        down=matrix(feed.down_proj),
        query_norm=None if query_norm is None else _norm(query_norm),
        key_norm=None if key_norm is None else _norm(key_norm),
    )


def _norm(norm: Any) -> Tensor:
    weight: Tensor = norm.weight.detach().float().contiguous()
    return weight


def _matrix(layer: nn.Module) -> PackedMatrix:
    """Return a layer's packed matrix.

    Raises:
        UnsupportedError: it has none of ours: an adapter wraps the layer, or it is of its own kind.
    """
    product = layer.product if isinstance(layer, PackedLinear) else None
    if not isinstance(product, NativeProduct):
        raise UnsupportedError(f"{type(layer).__name__} stands where a plain linear layer would")
    return product.matrix
