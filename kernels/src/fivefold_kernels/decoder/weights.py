"""The weights of a Llama-family decoder, packed, and its sizes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..linear.packed import PackedMatrix


@dataclass(frozen=True)
class LayerWeights:
    """One layer: attention, then a gated feed-forward block, each after an RMS norm."""

    input_norm: Float[Tensor, " hidden"]
    post_norm: Float[Tensor, " hidden"]
    query: PackedMatrix
    key: PackedMatrix
    value: PackedMatrix
    output: PackedMatrix
    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix
    query_norm: Float[Tensor, " dim"] | None = None
    """RMS norm of each head's query (Qwen3)."""
    key_norm: Float[Tensor, " dim"] | None = None

    @property
    def matrices(self) -> tuple[PackedMatrix, ...]:
        """All products of the layer."""
        return (
            self.query,
            self.key,
            self.value,
            self.output,
            self.gate,
            self.up,
            self.down,
        )


@dataclass(frozen=True)
class DecoderWeights:
    """All that a pass reads but embeddings and cache. Norm weights are float32."""

    layers: tuple[LayerWeights, ...]
    final_norm: Float[Tensor, " hidden"]
    head: PackedMatrix | None
    heads: int
    kv_heads: int
    dim: int
    eps: float
    scale: float
    """Factor on the attention scores."""

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.layers[0].query.in_features

    @property
    def ffn(self) -> int:
        """Width of the feed-forward block."""
        return self.layers[0].gate.out_features

    @property
    def layer_bytes(self) -> int:
        """Bytes of the layers' matrices that each pass reads."""
        return sum(matrix.nbytes for layer in self.layers for matrix in layer.matrices)

    @property
    def head_bytes(self) -> int:
        """Bytes of the output layer."""
        return 0 if self.head is None else self.head.nbytes
