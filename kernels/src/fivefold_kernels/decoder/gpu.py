"""A decoder pass on a GPU, in static shapes; the twin of `reference.py`.

All shapes follow from the arguments' shapes and nothing is read back from the device, so that a
CUDA graph can hold the whole pass. What computes is handed in: Triton's kernels, or the plain ones,
which say the same in torch and run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention import gpu as attention
from ..attention import reference as plain_attention
from ..linear import gpu as linear
from ..linear import reference as plain_linear
from ..pointwise import gpu as pointwise
from ..pointwise import reference as plain_pointwise
from ..triton_modules import load_kernels
from .cpu import Scores
from .weights import DecoderWeights, FloatMatrix

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From query [batch, node, head, dim], keys and values [batch, kv_head, slot, dim] and scale."""

Weights = Sequence[Tensor]
Biases = Sequence[Tensor | None]


@runtime_checkable
class Product(Protocol):
    """`float_linear` of the reference, or its twin."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        """Multiply rows with a matrix."""
        ...


@dataclass(frozen=True)
class Operations:
    """What a pass computes with."""

    name: str
    float_linear: Product
    three_linears: Callable[[Tensor, Weights, Biases], tuple[Tensor, ...]]
    gated_linear: Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float, torch.dtype], Tensor]
    rotate_and_store: Callable[..., Tensor]
    attention: Callable[[Tensor, Tensor, int], Attend]
    """Prepares attention for all layers: from lengths [batch], visible [batch, node, pending] and
    the slots of the cache."""


def triton_operations() -> Operations:
    """Return the kernels for a GPU; in each, a row has the same bits whatever is beside it.

    Raises:
        UnsupportedError: Triton is not installed.
    """
    load_kernels("fivefold_kernels.linear.gpu_kernels")

    def prepared(lengths: Tensor, visible: Tensor, slots: int) -> Attend:
        seen = attention.Seen.of(lengths, visible, slots)

        def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            return attention.attend_seen(query, key, value, seen, scale)

        return attend

    return Operations(
        "triton",
        linear.float_linear,
        linear.three_linears,
        linear.gated_linear,
        pointwise.rms_norm,
        pointwise.rotate_and_store,
        prepared,
    )


def plain_operations() -> Operations:
    """Return the references, which a GPU can run but no graph can hold: they read lengths."""

    def prepared(lengths: Tensor, visible: Tensor, slots: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            return plain_attention.tree_attention(query, key, value, lengths, visible, scale)

        return attend

    return Operations(
        "plain",
        plain_linear.float_linear,
        plain_linear.three_linears,
        plain_linear.gated_linear,
        plain_pointwise.rms_norm,
        plain_pointwise.rotate_and_store,
        prepared,
    )


def static_pass(
    weights: DecoderWeights[FloatMatrix],
    operations: Operations,
    inputs: Float[Tensor, "batch node hidden"],
    cosine: Float[Tensor, "batch node half"],
    sine: Float[Tensor, "batch node half"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    slots: Int[Tensor, "batch node"],
    keys: Float[Tensor, "layer batch kv_head slot dim"],
    values: Float[Tensor, "layer batch kv_head slot dim"],
    want_logits: bool = True,
) -> Scores:
    """Run all layers over the nodes and write their keys and values.

    The residual stream is float32; what is multiplied, the queries and the cache have the dtype of
    the weights.

    Args:
        weights: of the decoder, norms in float32.
        operations: what computes.
        inputs: embeddings of the nodes.
        cosine: of each node's position and each pair of a head, float32.
        sine: likewise.
        lengths: committed slots of each row.
        visible: among all pending nodes: ancestors and itself; pending node j of row b lies in slot
            lengths[b] + j.
        slots: where each node's key and value go; nodes that nobody sees may share one.
        keys: of the cache.
        values: likewise, in the same layout.
        want_logits: run the output layer, if there is one.
    """
    o, w = operations, weights
    batch, nodes, hidden = inputs.shape
    rows = inputs.reshape(-1, hidden).float().contiguous()
    angles = cosine.reshape(len(rows), -1), sine.reshape(len(rows), -1)
    attend = o.attention(lengths, visible, keys.shape[3])
    dtype = w.layers[0].query.weight.dtype

    def product(matrix: FloatMatrix, x: Tensor, add: Tensor | None = None) -> Tensor:
        return o.float_linear(x, matrix.weight, matrix.bias, add)

    def heads_of(flat: Tensor, norm: Tensor | None = None) -> Tensor:
        flat = flat.view(-1, w.dim)
        normed = flat if norm is None else o.rms_norm(flat, norm, w.eps, torch.float32)
        return normed.view(len(rows), -1, w.dim)

    for layer, key, value in zip(w.layers, keys, values, strict=True):
        normed = o.rms_norm(rows, layer.input_norm, w.eps, dtype)
        three = layer.query, layer.key, layer.value
        projected = o.three_linears(
            normed, [each.weight for each in three], [each.bias for each in three]
        )
        query = o.rotate_and_store(
            heads_of(projected[0], layer.query_norm),
            heads_of(projected[1], layer.key_norm),
            heads_of(projected[2]),
            *angles,
            slots,
            key,
            value,
        )
        mixed = attend(query.view(batch, nodes, w.heads, w.dim), key, value, w.scale)
        rows = product(layer.output, mixed.reshape(len(rows), -1).to(dtype), rows)
        normed = o.rms_norm(rows, layer.post_norm, w.eps, dtype)
        gate, up = layer.gate, layer.up
        gated = o.gated_linear(normed, gate.weight, up.weight, gate.bias, up.bias)
        rows = product(layer.down, gated, rows)
    last = o.rms_norm(rows, w.final_norm, w.eps, torch.float32)
    logits = None
    if want_logits and w.head is not None:
        logits = product(w.head, last.to(dtype)).view(batch, nodes, -1)
    return Scores(last.view(batch, nodes, hidden), logits)
