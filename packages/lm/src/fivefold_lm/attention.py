"""How a layer attends: the protocol, exact attention, and the one function transformers calls."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from .builtin import FullAttentionConfig
from .cache import KVCache
from .models import LanguageModel

NAME = "fivefold"  # of our function among transformers' attention implementations


@runtime_checkable
class AttentionMethod(Protocol):
    """What `attention=NAME` builds: a cache, and how a layer attends over it."""

    name: str
    """The Hydra option."""
    lossless: bool
    """Whether the outcome equals exact attention over the whole prefix."""

    def make_cache(self, model: LanguageModel, batch: int, max_len: int) -> KVCache:
        """Make an empty cache.

        Args:
            model: the model that will fill it.
            batch: rows.
            max_len: most slots a row may use, drafted nodes included.
        """
        ...

    def attend(
        self,
        layer: nn.Module,
        query: Tensor,
        key: Any,
        value: Any,
        mask: Tensor,
        scale: float,
        *,
        softcap: float | None = None,
    ) -> Tensor:
        """Attend the nodes of a pass to the columns of the cache.

        Args:
            layer: the attention layer (`layer.layer_idx` tells which).
            query: [batch, head, node, dim].
            key: what the cache's `update` returned; for a plain cache
                [batch, kv_head, column, dim].
            value: likewise.
            mask: added to the scores, [batch, 1, node, column]: 0 where visible.
            scale: factor on the scores.
            softcap: bend scores as `softcap * tanh(score / softcap)` before the mask.

        Returns:
            [batch, node, head, dim].
        """
        ...


class FullAttention:
    """Exact attention over the whole cache: softmax(scale * q k^T + mask) v."""

    name = "full"
    lossless = True

    def make_cache(self, model: LanguageModel, batch: int, max_len: int) -> KVCache:
        """Make an empty cache of static slots."""
        return KVCache.for_module(model.module, batch, max_len)

    def attend(
        self,
        layer: nn.Module,
        query: Float[Tensor, "batch head node dim"],
        key: Float[Tensor, "batch kv_head column dim"],
        value: Float[Tensor, "batch kv_head column value_dim"],
        mask: Float[Tensor, "#batch 1 node column"],
        scale: float,
        *,
        softcap: float | None = None,
    ) -> Float[Tensor, "batch node head value_dim"]:
        """Attend by torch's fused kernel, or plainly where scores are bent."""
        if softcap is not None:
            return attend_plainly(query, key, value, mask, scale, softcap).transpose(1, 2)
        grouped = query.shape[1] != key.shape[1]
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2)


def attend_plainly(
    query: Float[Tensor, "batch head node dim"],
    key: Float[Tensor, "batch kv_head column dim"],
    value: Float[Tensor, "batch kv_head column value_dim"],
    mask: Float[Tensor, "#batch 1 node column"],
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "batch head node value_dim"]:
    """Attend with every step written out, in the order transformers' eager attention has."""
    batch, heads, nodes, dim = query.shape
    kv_heads = key.shape[1]
    folded = query.reshape(batch, kv_heads, heads // kv_heads * nodes, dim)  # heads share a key
    scores = (folded @ key.mT * scale).view(batch, kv_heads, -1, nodes, key.shape[2])
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + mask[:, :, None]).softmax(-1, dtype=torch.float32).to(query.dtype)
    out = weights.view(batch, kv_heads, -1, key.shape[2]) @ value
    return out.view(batch, heads, nodes, -1)


def build_full(config: FullAttentionConfig) -> FullAttention:
    """Build `attention=full`."""
    return FullAttention()


@dataclass
class Pass:
    """What one forward pass carries to every attention layer."""

    method: AttentionMethod
    calls: int = field(default=0)
    """How many layers asked for the method: 0 means that the model attends on its own."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    fivefold: Pass | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend by the method that the forward pass carries (transformers' calling convention).

    Raises:
        NotImplementedError: the layer wants a term that no method here knows.
    """
    unknown = [name for name in ("s_aux", "position_bias") if options.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"{unknown[0]}, a term of attention that is not known here")
    if scaling is None:
        scaling = float(query.shape[-1] ** -0.5)
    method: AttentionMethod = FullAttention()
    if fivefold is not None:
        fivefold.calls += 1
        method = fivefold.method
    return method.attend(module, query, key, value, attention_mask, scaling, softcap=softcap), None


def register() -> None:
    """Make our function known to transformers by name; models choose it pass by pass."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
