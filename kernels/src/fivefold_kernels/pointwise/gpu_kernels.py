"""The Triton kernels between the products; `gpu.py` checks and launches. A program is a row."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def norm_row(
    x: tl.tensor,  # [row, dim]
    weight: tl.tensor,  # [dim]
    out: tl.tensor,  # [row, dim]
    eps: tl.tensor,
    dim: tl.constexpr,
    width: tl.constexpr,  # of a tile: dim or more
) -> None:
    """Norm a row: y = weight * x / sqrt(mean(x^2) + eps)."""
    d = tl.arange(0, width)
    at = tl.program_id(0).to(tl.int64) * dim + d
    row = tl.load(x + at, d < dim, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, 0) / dim + eps)
    tl.store(out + at, row * scale * tl.load(weight + d, d < dim, other=0.0), d < dim)


@triton.jit(do_not_specialize=("nodes",))
@no_type_check
def rotate_and_store(
    query: tl.tensor,  # [row, head, dim]
    key: tl.tensor,  # [row, kv_head, dim]
    value: tl.tensor,  # likewise
    cosine: tl.tensor,  # [row, dim / 2]
    sine: tl.tensor,  # likewise
    slots: tl.tensor,  # [row]
    keys: tl.tensor,  # [batch, kv_head, slot, dim], by strides
    values: tl.tensor,  # likewise
    out: tl.tensor,  # [row, head, dim]
    nodes: tl.tensor,  # rows of one batch row
    batch_stride: tl.tensor,
    head_stride: tl.tensor,
    slot_stride: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,  # dim / 2
    width: tl.constexpr,  # of a tile: half or more
) -> None:
    """Rotate one head's query, or its key into the cache; or copy its value there."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.arange(0, width)
    is_pair = i < half
    c = tl.load(cosine + row * half + i, is_pair, other=0.0)
    s = tl.load(sine + row * half + i, is_pair, other=0.0)
    place = (row // nodes) * batch_stride + tl.load(slots + row) * slot_stride
    if head < heads:
        at = (row * heads + head) * 2 * half + i
        a = tl.load(query + at, is_pair, other=0.0)
        b = tl.load(query + at + half, is_pair, other=0.0)
        tl.store(out + at, a * c - b * s, is_pair)
        tl.store(out + at + half, b * c + a * s, is_pair)
    elif head < heads + kv_heads:
        at = (row * kv_heads + head - heads) * 2 * half + i
        to = place + (head - heads) * head_stride + i
        a = tl.load(key + at, is_pair, other=0.0)
        b = tl.load(key + at + half, is_pair, other=0.0)
        tl.store(keys + to, a * c - b * s, is_pair)
        tl.store(keys + to + half, b * c + a * s, is_pair)
    else:
        at = (row * kv_heads + head - heads - kv_heads) * 2 * half + i
        to = place + (head - heads - kv_heads) * head_stride + i
        tl.store(values + to, tl.load(value + at, is_pair, other=0.0), is_pair)
        tl.store(values + to + half, tl.load(value + at + half, is_pair, other=0.0), is_pair)
