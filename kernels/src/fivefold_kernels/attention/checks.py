"""What every attention kernel asks of its arguments, whatever it runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedError


def check_heads(query: Tensor, key: Tensor) -> None:
    """Refuse queries [batch, node, head, dim] over keys [batch, kv_head, ..] of other numbers.

    Raises:
        UnsupportedError: heads that no KV head can share, or another batch.
    """
    batch, heads = query.shape[0], query.shape[2]
    if heads % key.shape[1] or key.shape[0] != batch:
        raise UnsupportedError(f"{heads} heads over {key.shape[1]} KV heads, batch {batch}")


def check_visible(visible: Tensor, batch: int, nodes: int) -> None:
    """Refuse a mask that does not say of each node which pending ones it sees.

    Raises:
        UnsupportedError: another shape or dtype.
    """
    is_mask = visible.ndim == 3 and visible.dtype == torch.bool
    if not is_mask or visible.shape[:2] != (batch, nodes):
        raise UnsupportedError("visible is bool [batch, node, pending]")
