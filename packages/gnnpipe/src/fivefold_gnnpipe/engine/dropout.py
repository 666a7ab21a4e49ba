"""Dropout whose mask is a function of (seed, epoch, layer, vertex, column) and of nothing else.

A vertex drops the same entries whichever chunk, stage or device computes it, in whatever order,
and again when an activation is recomputed. The hash is two rounds of multiply and xor-shift on 32
bits, of which each half decides one column: shares are exact to 2^-16.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROUND_1, _ROUND_2 = 0x21F0AAAD, 0x735A2D97
_GOLDEN = 0x61C88647
_HALF = 1 << 16
_BLOCK = 1 << 18
"""Entries whose mask is made at a time where no gradient needs it: they stay in a core's cache."""


def dropout_key(seed: int, epoch: int, layer: int) -> int:
    """Return the 64-bit key of one layer's masks in one epoch.

    Args:
        seed: the run's.
        epoch: from 0.
        layer: 0 for what the encoder reads, l for what block l reads (from 1), L + 1 for the head.
    """
    text = f"{seed}:{epoch}:{layer}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def keyed_dropout(
    values: Float[Tensor, "row dim"], p: float, key: int, vertices: Int[Tensor, " row"]
) -> Float[Tensor, "row dim"]:
    """Zero a share `p` of entries and scale the others by 1 / (1 - p).

    Args:
        values: one row a vertex.
        p: from 0 to below 1; 0 returns `values` themselves.
        key: of `dropout_key`.
        vertices: the rows' ids in the whole graph.
    """
    if p == 0.0:
        return values
    if not (torch.is_grad_enabled() and values.requires_grad):
        return _dropped_in_blocks(values, p, key, vertices)
    return values * _scaled_mask(values, p, key, vertices)


def _dropped_in_blocks(values: Tensor, p: float, key: int, vertices: Tensor) -> Tensor:
    dropped = torch.empty_like(values)
    rows = max(1, _BLOCK // max(1, values.shape[1]))
    for part, ids, out in zip(
        values.split(rows), vertices.split(rows), dropped.split(rows), strict=True
    ):
        torch.mul(part, _scaled_mask(part, p, key, ids), out=out)
    return dropped


def _scaled_mask(values: Tensor, p: float, key: int, vertices: Tensor) -> Tensor:
    keep = keep_mask(values.shape[1], p, key, vertices)
    return keep.to(values.dtype).mul_(1.0 / (1.0 - p))


def keep_mask(
    width: int, p: float, key: int, vertices: Int[Tensor, " row"]
) -> Bool[Tensor, "row dim"]:
    """Return which entries stay; the arguments are those of `keyed_dropout`."""
    columns = torch.arange((width + 1) // 2, dtype=torch.int32, device=vertices.device)
    by_row = _mixed(vertices.to(torch.int32), key & 0xFFFFFFFF)
    by_column = _mixed(columns, key >> 32)
    bits = by_row[:, None] ^ by_column  # [row, half of dim]
    bits.mul_(_ROUND_1)
    bits ^= (bits >> 15) & 0x1FFFF
    bits.mul_(_ROUND_2)
    dropped_below = round(p * _HALF) - _HALF // 2
    return bits.view(torch.int16)[:, :width] >= dropped_below


def _mixed(numbers: Int[Tensor, " n"], key: int) -> Int[Tensor, " n"]:
    """Return 32-bit hashes of a few numbers under half a key."""
    mixed = numbers * _GOLDEN + _signed(key)
    for factor in (_ROUND_1, _ROUND_2):
        mixed ^= (mixed >> 16) & 0xFFFF
        mixed = mixed * factor
    return mixed ^ ((mixed >> 15) & 0x1FFFF)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word
