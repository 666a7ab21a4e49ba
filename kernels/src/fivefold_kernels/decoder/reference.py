"""A decoder pass, written to be believed: the twin of `cpu.py`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention.reference import tree_attention
from ..linear.packed import PackedMatrix
from ..linear.reference import linear
from ..pointwise.reference import rms_norm, rotate, silu_mul
from .weights import DecoderWeights


def decoder_pass(
    weights: DecoderWeights[PackedMatrix],
    inputs: Float[Tensor, "batch node hidden"],
    cosine: Float[Tensor, "batch node half"],
    sine: Float[Tensor, "batch node half"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    keys: Float[Tensor, "layer batch kv_head slot dim"],
    values: Float[Tensor, "layer batch kv_head slot dim"],
) -> Float[Tensor, "batch node hidden"]:
    """Run all layers over the nodes; write their keys and values; return the normed hidden states.

    Args:
        weights: of the decoder.
        inputs: embeddings of the nodes.
        cosine: of each node's position and each pair of a head.
        sine: likewise.
        lengths: committed slots of each row.
        visible: among all pending nodes, the new ones last: ancestors and itself.
        keys: pending node j of row b has slot lengths[b] + j.
        values: likewise.
    """
    batch, nodes, hidden = inputs.shape
    rows = inputs.reshape(-1, hidden)
    angles = cosine.reshape(rows.shape[0], -1), sine.reshape(rows.shape[0], -1)
    first = visible.shape[2] - nodes
    slots = (lengths[:, None] + first + torch.arange(nodes)).reshape(-1)
    owner = torch.arange(batch).repeat_interleave(nodes)
    for layer, key, value in zip(weights.layers, keys, values, strict=True):
        normed = rms_norm(rows, layer.input_norm, weights.eps)
        q = _product(layer.query, normed).view(-1, weights.heads, weights.dim)
        k = _product(layer.key, normed).view(-1, weights.kv_heads, weights.dim)
        v = _product(layer.value, normed).view(-1, weights.kv_heads, weights.dim)
        if layer.query_norm is not None and layer.key_norm is not None:
            q = _normed_heads(q, layer.query_norm, weights.eps)
            k = _normed_heads(k, layer.key_norm, weights.eps)
        q, k = rotate(q, *angles), rotate(k, *angles)
        key[owner, :, slots] = k.to(key.dtype)
        value[owner, :, slots] = v.to(value.dtype)
        mixed = tree_attention(
            q.view(batch, nodes, weights.heads, weights.dim),
            key,
            value,
            lengths,
            visible,
            weights.scale,
        )
        rows = rows + _product(layer.output, mixed.reshape(rows.shape[0], -1))
        normed = rms_norm(rows, layer.post_norm, weights.eps)
        act = silu_mul(_product(layer.gate, normed), _product(layer.up, normed))
        rows = rows + _product(layer.down, act)
    return rms_norm(rows, weights.final_norm, weights.eps).view(batch, nodes, hidden)


def _product(matrix: PackedMatrix, rows: Tensor) -> Tensor:
    weight = matrix.rows(torch.arange(matrix.out_features))
    return linear(rows, weight, matrix.format, matrix.bias)


def _normed_heads(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rms_norm(x.reshape(-1, x.shape[-1]), weight, eps).view(x.shape)
