"""How the CPU kernels keep keys: 16 slots beside each other, so that no pass transposes them."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor

KEY_BLOCK = 16  # slots


def block_keys(
    keys: Shaped[Tensor, "*lead slot dim"],
) -> Shaped[Tensor, "*lead block dim within"]:
    """Return a copy of keys as [slot / 16, dim, 16]; the slots must be whole blocks."""
    *lead, slots, dim = keys.shape
    blocks = keys.reshape(*lead, slots // KEY_BLOCK, KEY_BLOCK, dim)
    return blocks.transpose(-1, -2).contiguous()


def plain_keys(
    keys: Shaped[Tensor, "*lead block dim within"],
) -> Shaped[Tensor, "*lead slot dim"]:
    """Return a copy of blocked keys as [slot, dim]."""
    return keys.transpose(-1, -2).flatten(-3, -2).contiguous()
