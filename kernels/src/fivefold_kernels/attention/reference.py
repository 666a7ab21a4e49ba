"""Tree attention, written to be believed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def tree_attention(
    query: Float[Tensor, "batch node head dim"],
    key: Float[Tensor, "batch kv_head slot dim"],
    value: Float[Tensor, "batch kv_head slot dim"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    scale: float,
) -> Float[Tensor, "batch node head dim"]:
    """Attend each tree node to its row's prefix and to its own ancestors.

    out = softmax(scale * query @ key^T over visible slots) @ value, in float64.

    Args:
        query: of the new nodes.
        key: row b holds its prefix in slots 0 .. lengths[b] - 1 and pending node j in slot
            lengths[b] + j.
        value: likewise.
        lengths: committed slots of each row.
        visible: among all pending nodes, the new ones last: ancestors and itself.
        scale: factor on the scores.
    """
    batch, nodes, heads, _ = query.shape
    slots, pending = key.shape[2], visible.shape[2]
    slot = torch.arange(slots, device=key.device)
    seen = torch.zeros(batch, nodes, slots, dtype=torch.bool, device=key.device)
    for row in range(batch):
        length = int(lengths[row])
        seen[row] = slot < length
        seen[row, :, length : length + pending] = visible[row]
    group = heads // key.shape[1]
    keys = key.double().repeat_interleave(group, dim=1)
    values = value.double().repeat_interleave(group, dim=1)
    scores = scale * query.double().transpose(1, 2) @ keys.mT
    weights = scores.masked_fill(~seen[:, None], -math.inf).softmax(-1)
    values = values.masked_fill(~seen.any(1)[:, None, :, None], 0.0)  # an unused slot may hold NaN
    return (weights @ values).transpose(1, 2).to(query.dtype)
