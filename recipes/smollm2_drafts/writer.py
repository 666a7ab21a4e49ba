"""Writer: a plain Llama decoder that writes many rows at once from a static KV cache.

Rows are padded on the left, so that all of them write the same slot at the same step. The same
forward pass, without a cache, reads finished text (`features.py`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM


class Writer:
    """The target's weights, fused and in one dtype, with a static KV cache.

    Args:
        target: a Llama model; its weights are copied in `dtype`.
        dtype: dtype of the weights, the cache and the products.
        device: where to compute.
    """

    def __init__(self, target: LlamaForCausalLM, dtype: torch.dtype, device: str) -> None:
        self.config = target.config
        self.device, self.dtype = device, dtype
        put = {"device": device, "dtype": dtype}
        self.embedding = target.model.embed_tokens.weight.detach().to(**put)
        self.final_norm = target.model.norm.weight.detach().to(**put)
        self.layers: list[list[Tensor]] = []
        for layer in target.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            fused = [
                layer.input_layernorm.weight,
                torch.cat([getattr(attention, f"{name}_proj").weight for name in "qkv"]),
                attention.o_proj.weight,
                layer.post_attention_layernorm.weight,
                torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                mlp.down_proj.weight,
            ]
            self.layers.append([weight.detach().to(**put) for weight in fused])
        angles = torch.outer(
            torch.arange(target.config.max_position_embeddings, dtype=torch.float32),
            target.model.rotary_emb.inv_freq.float().cpu(),
        ).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(**put), angles.sin().to(**put)
        self.caches: list[Tensor] = []

    def open(self, rows: int, slots: int) -> None:
        """Make the KV cache: for each layer keys and values `[2, row, kv_head, slot, dim]`."""
        shape = (2, rows, self.config.num_key_value_heads, slots, self.config.head_dim)
        self.caches = [
            torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers
        ]

    def forward(
        self,
        tokens: Int[Tensor, "row new"],
        positions: Int[Tensor, "row new"],
        visible: Bool[Tensor, "row new slot"] | None,
        rows: slice = slice(None),
        start: int | None = None,
    ) -> Float[Tensor, "row new hidden"]:
        """Return the hidden states after the final norm.

        Args:
            tokens: new tokens.
            positions: their positions in the text.
            visible: slots each new token sees; `None` is plain causal attention.
            rows: the cache's rows that take part.
            start: the cache's slot of the first new token; `None` uses no cache.
        """
        config, (batch, new) = self.config, tokens.shape
        heads, groups, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        mask = None if visible is None else visible.unsqueeze(1)
        hidden = self.embedding[tokens]
        for index, (norm, qkv, out, mlp_norm, gate_up, down) in enumerate(self.layers):
            mixed = F.linear(self.normed(hidden, norm), qkv)
            mixed = mixed.view(batch, new, heads + 2 * groups, dim).transpose(1, 2)
            turned, value = mixed[:, : heads + groups], mixed[:, heads + groups :]
            half = torch.cat([-turned[..., dim // 2 :], turned[..., : dim // 2]], dim=-1)
            turned = turned * cos + half * sin
            query, key = turned[:, :heads], turned[:, heads:]
            if start is not None:
                keys, values = self.caches[index][:, rows]
                keys[:, :, start : start + new] = key
                values[:, :, start : start + new] = value
                key, value = keys[:, :, : start + new], values[:, :, : start + new]
            if new == 1:  # the heads that share a key are rows of one product
                shared = query.reshape(batch, groups, heads // groups, dim)
                seen = F.scaled_dot_product_attention(shared, key, value, attn_mask=mask)
            else:
                key, value = (x.repeat_interleave(heads // groups, dim=1) for x in (key, value))
                seen = F.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, is_causal=mask is None
                ).transpose(1, 2)
            hidden = hidden + F.linear(seen.reshape(batch, new, heads * dim), out)
            gate, up = F.linear(self.normed(hidden, mlp_norm), gate_up).chunk(2, dim=-1)
            hidden = hidden + F.linear(F.silu(gate) * up, down)
        return self.normed(hidden, self.final_norm)

    def logits(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, "... vocab"]:
        """Return the target's logits of final hidden states."""
        return F.linear(hidden, self.embedding)

    def normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Apply the model's root-mean-square norm."""
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self.config.rms_norm_eps)
