"""The Triton kernel of products with few rows; `gpu.py` checks, lays out and launches.

The number of rows is not specialized on: one binary serves all of them.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("rows",))
@no_type_check
def multiply(
    x: tl.tensor,  # [row, in]
    weight: tl.tensor,  # [out, in]
    bias: tl.tensor,  # [out], if has_bias
    add: tl.tensor,  # [row, out], if has_add
    out: tl.tensor,  # [row, out]
    rows: tl.tensor,
    ins: tl.constexpr,
    outs: tl.constexpr,
    has_bias: tl.constexpr,
    has_add: tl.constexpr,
    numbers: tl.constexpr,  # what is multiplied
    tile_rows: tl.constexpr,
    tile_outs: tl.constexpr,
    tile_ins: tl.constexpr,
) -> None:
    """Compute one tile of y = x w^T + b + a, over all inputs from the first to the last."""
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    feature = tl.program_id(1).to(tl.int64) * tile_outs + tl.arange(0, tile_outs)
    is_row, is_feature = row < rows, feature < outs
    total = tl.zeros([tile_rows, tile_outs], tl.float32)
    for start in range(0, ins, tile_ins):
        k = start + tl.arange(0, tile_ins)
        is_in = k < ins
        from_x = x + row[:, None] * ins + k[None, :]
        from_weight = weight + feature[:, None] * ins + k[None, :]
        some = tl.load(from_x, is_row[:, None] & is_in[None, :], other=0.0).to(numbers)
        tile = tl.load(from_weight, is_feature[:, None] & is_in[None, :], other=0.0).to(numbers)
        total = tl.dot(some, tl.trans(tile), total, input_precision="ieee")
    if has_bias:
        total += tl.load(bias + feature, is_feature, other=0.0).to(tl.float32)[None, :]
    at = row[:, None] * outs + feature[None, :]
    is_result = is_row[:, None] & is_feature[None, :]
    if has_add:
        total += tl.load(add + at, is_result, other=0.0)
    tl.store(out + at, total, is_result)
