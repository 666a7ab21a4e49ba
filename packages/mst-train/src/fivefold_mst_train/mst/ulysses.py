"""Ulysses sequence parallelism: each process holds a part of every sequence, and all heads' share.

Outside attention everything is token-wise and works on the local part. Around attention, two
exchanges: tokens of all processes for some heads, and back. Labels are shifted before the sequence
is cut, since a part's last token predicts the next part's first. Source: arXiv 2309.14509.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fivefold import UserError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .undo import Undo

NAME = "fivefold_ulysses"
"""The attention implementation that a sharded model's config names."""
_SHARDS = "_fivefold_shards"


@dataclass
class SequenceShards:
    """The processes that share a sequence, and this one's place among them."""

    size: int
    group: Any
    place: int
    documents: Tensor | None = None
    """Of the last batch cut, where rows hold several documents: which one each token belongs to,
    [batch, token] of the whole sequence."""

    def cut(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's part of a batch of whole rows.

        `shift_labels` is made of `labels` where it is not given: after the cut it would be too
        late. Positions go on over the cut.

        Raises:
            UserError: rows cannot be cut into equal parts.
        """
        whole = dict(batch)
        tokens = whole["input_ids"].shape[1]
        if tokens % self.size:
            raise UserError(
                f"{tokens} tokens cannot be cut into {self.size} equal parts",
                setting="seq_len",
                value=tokens,
                remedy=f"give a multiple of {self.size}",
            )
        positions = whole.get("position_ids")
        if positions is None:
            rows = whole["input_ids"]
            positions = torch.arange(tokens, device=rows.device).expand(rows.shape)
        self.documents = _documents(positions)
        whole["position_ids"] = positions
        if "labels" in whole and "shift_labels" not in whole:
            whole["shift_labels"] = F.pad(whole["labels"], (0, 1), value=-100)[..., 1:]
        if "shift_labels" in whole:
            whole["labels"] = whole["shift_labels"]
        part = slice(self.place * tokens // self.size, (self.place + 1) * tokens // self.size)
        return {
            key: value[:, part] if value.ndim == 2 and value.shape[1] == tokens else value
            for key, value in whole.items()
        }

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        """Exchange tokens for heads, attend, and exchange back; [batch, token, head, dim]."""
        groups = q.shape[1] // k.shape[1]
        if q.shape[1] % self.size:
            raise UserError(
                f"{q.shape[1]} heads cannot be shared by {self.size} processes",
                setting="training.sequence_parallel",
                value=self.size,
                remedy="give a divisor of the number of attention heads",
            )
        if k.shape[1] % self.size:  # a process would hold a part of a head
            k, v = (each.repeat_interleave(groups, 1) for each in (k, v))
        q, k, v = (self._to_heads(each) for each in (q, k, v))
        mask = None if self.documents is None else _document_mask(self.documents)
        made = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=given.get("scaling"),
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        return self._to_tokens(made).transpose(1, 2)

    def _to_heads(self, x: Tensor) -> Tensor:
        """[batch, head, token / p, dim] -> [batch, head / p, token, dim]."""
        batch, heads, tokens, dim = x.shape
        parts = x.reshape(batch, self.size, heads // self.size, tokens, dim)
        sent = parts.permute(1, 0, 2, 3, 4).contiguous()
        got = _exchange(sent, self.group)  # [process, batch, head / p, token / p, dim]
        return got.permute(1, 2, 0, 3, 4).reshape(batch, heads // self.size, -1, dim)

    def _to_tokens(self, x: Tensor) -> Tensor:
        """[batch, head / p, token, dim] -> [batch, head, token / p, dim]."""
        batch, heads, tokens, dim = x.shape
        parts = x.reshape(batch, heads, self.size, tokens // self.size, dim)
        got = _exchange(parts.permute(2, 0, 1, 3, 4).contiguous(), self.group)
        return got.permute(1, 0, 2, 3, 4).reshape(batch, heads * self.size, -1, dim)


def shard_sequences(undo: Undo, causal: nn.Module, size: int) -> SequenceShards:
    """Let a model's attention see the whole of sequences that `size` processes share.

    Raises:
        UserError: not so many processes, or attention that needs a mask or a cap of its own.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world % size:
        raise UserError(
            f"{world} processes cannot share sequences by {size}",
            setting="training.sequence_parallel",
            value=size,
            remedy=f"start a multiple of {size} processes by torchrun",
        )
    config: Any = causal.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "attn_logit_softcapping", None):
        raise UserError(
            "this model's attention is not plain causal attention",
            setting="training.sequence_parallel",
            value=size,
            remedy="set training.sequence_parallel=1",
        )
    rank, group = dist.get_rank(), None
    for start in range(0, world, size):  # every process makes every group
        made = dist.new_group(list(range(start, start + size)))
        group = made if start <= rank < start + size else group
    shards = SequenceShards(size, group, rank % size)
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    undo.set_attribute(config, "_attn_implementation_internal", NAME)
    for module in causal.modules():
        if hasattr(module, "q_proj") and hasattr(module, "o_proj"):
            undo.set(module, _SHARDS, shards)
    return shards


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    shards: SequenceShards = module.__dict__[_SHARDS]
    return shards.attend(module, query, key, value, **given).contiguous(), None


class _Exchange(torch.autograd.Function):
    """All-to-all along the first axis, which is its own inverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        x = x.contiguous()
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()  # its layout would be the result's, and is not the exchange's
        out = torch.empty_like(grad)
        dist.all_to_all_single(out, grad, group=ctx.group)
        return out, None


def _exchange(x: Tensor, group: Any) -> Tensor:
    made: Tensor = _Exchange.apply(x, group)  # type: ignore[no-untyped-call]
    return made


def _documents(positions: Tensor) -> Tensor | None:
    """Return the document of each token where positions begin anew within a row; else None."""
    starts = F.pad(positions[:, 1:] != positions[:, :-1] + 1, (1, 0))
    return starts.cumsum(-1) if bool(starts.any()) else None


def _document_mask(documents: Tensor) -> Tensor:
    """Return which keys each query sees, [batch, 1, token, token]."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()
