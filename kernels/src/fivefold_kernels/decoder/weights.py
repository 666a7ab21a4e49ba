"""The weights of a Llama-family decoder, packed or plain, and its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor


class Matrix(Protocol):
    """What all kinds of matrices tell of themselves."""

    @property
    def in_features(self) -> int:
        """Inputs of a product."""
        ...

    @property
    def out_features(self) -> int:
        """Outputs of a product."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        ...


M = TypeVar("M", bound=Matrix)


@dataclass(frozen=True)
class FloatMatrix:
    """A linear layer's own weights, not copied."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None = None

    @property
    def in_features(self) -> int:
        """Inputs of a product."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Outputs of a product."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.weight.nbytes


@dataclass(frozen=True)
class LayerWeights(Generic[M]):
    """One layer: attention, then a gated feed-forward block, each after an RMS norm."""

    input_norm: Float[Tensor, " hidden"]
    post_norm: Float[Tensor, " hidden"]
    query: M
    key: M
    value: M
    output: M
    gate: M
    up: M
    down: M
    query_norm: Float[Tensor, " dim"] | None = None
    """RMS norm of each head's query (Qwen3)."""
    key_norm: Float[Tensor, " dim"] | None = None

    @property
    def matrices(self) -> tuple[M, ...]:
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
class DecoderWeights(Generic[M]):
    """All that a pass reads but embeddings and cache. Norm weights are float32."""

    layers: tuple[LayerWeights[M], ...]
    final_norm: Float[Tensor, " hidden"]
    head: M | None
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
