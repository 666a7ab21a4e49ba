"""The Triton kernels of products with few rows; `gpu.py` checks, lays out and launches.

The number of rows is not specialized on: one binary serves all that share tiles of one shape.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def load_tile(
    rows: tl.tensor,
    row: tl.tensor,
    k: tl.tensor,
    is_row: tl.tensor,
    ins: tl.constexpr,
    numbers: tl.constexpr,
) -> tl.tensor:
    """Load some inputs of some rows; 0 beyond the last."""
    mask = is_row[:, None] & (k < ins)[None, :]
    return tl.load(rows + row[:, None] * ins + k[None, :], mask, other=0.0).to(numbers)


@triton.jit
@no_type_check
def store_product(
    x: tl.tensor,  # [row, in]
    weight: tl.tensor,  # [out, in]
    bias: tl.tensor,  # [out], if has_bias
    add: tl.tensor,  # [row, out], if has_add
    out: tl.tensor,  # [row, out]
    rows: tl.tensor,
    tile: tl.tensor,  # of outputs
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
    feature = tile.to(tl.int64) * tile_outs + tl.arange(0, tile_outs)
    is_row, is_feature = row < rows, feature < outs
    total = tl.zeros([tile_rows, tile_outs], tl.float32)
    for start in range(0, ins, tile_ins):
        k = start + tl.arange(0, tile_ins)
        some = load_tile(x, row, k, is_row, ins, numbers)
        weights = load_tile(weight, feature, k, is_feature, ins, numbers)
        total = tl.dot(some, tl.trans(weights), total, input_precision="ieee")
    if has_bias:
        total += tl.load(bias + feature, is_feature, other=0.0).to(tl.float32)[None, :]
    at = row[:, None] * outs + feature[None, :]
    is_result = is_row[:, None] & is_feature[None, :]
    if has_add:
        total += tl.load(add + at, is_result, other=0.0)
    tl.store(out + at, total, is_result)


@triton.jit(do_not_specialize=("rows",))
@no_type_check
def multiply(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    ins: tl.constexpr,
    outs: tl.constexpr,
    has_bias: tl.constexpr,
    has_add: tl.constexpr,
    numbers: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_outs: tl.constexpr,
    tile_ins: tl.constexpr,
) -> None:
    """Multiply rows with a matrix."""
    store_product(
        x, weight, bias, add, out, rows, tl.program_id(1), ins, outs, has_bias, has_add,
        numbers, tile_rows, tile_outs, tile_ins,
    )  # fmt: skip


@triton.jit(do_not_specialize=("rows",))
@no_type_check
def multiply_three(
    x: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    weight2: tl.tensor,
    bias0: tl.tensor,
    bias1: tl.tensor,
    bias2: tl.tensor,
    out0: tl.tensor,
    out1: tl.tensor,
    out2: tl.tensor,
    rows: tl.tensor,
    ins: tl.constexpr,
    outs0: tl.constexpr,
    outs1: tl.constexpr,
    outs2: tl.constexpr,
    has_bias0: tl.constexpr,
    has_bias1: tl.constexpr,
    has_bias2: tl.constexpr,
    numbers: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_outs: tl.constexpr,
    tile_ins: tl.constexpr,
) -> None:
    """Multiply rows with three matrices, each tile of outputs lying in one of them."""
    tile = tl.program_id(1)
    tiles0, tiles1 = tl.cdiv(outs0, tile_outs), tl.cdiv(outs1, tile_outs)
    if tile < tiles0:
        store_product(
            x, weight0, bias0, out0, out0, rows, tile, ins, outs0, has_bias0, False,
            numbers, tile_rows, tile_outs, tile_ins,
        )  # fmt: skip
    elif tile < tiles0 + tiles1:
        store_product(
            x, weight1, bias1, out1, out1, rows, tile - tiles0, ins, outs1, has_bias1, False,
            numbers, tile_rows, tile_outs, tile_ins,
        )  # fmt: skip
    else:
        store_product(
            x, weight2, bias2, out2, out2, rows, tile - tiles0 - tiles1, ins, outs2, has_bias2,
            False, numbers, tile_rows, tile_outs, tile_ins,
        )  # fmt: skip


@triton.jit(do_not_specialize=("rows",))
@no_type_check
def multiply_gated(
    x: tl.tensor,  # [row, in]
    gate: tl.tensor,  # [out, in]
    up: tl.tensor,  # likewise
    gate_bias: tl.tensor,  # [out], if has_gate_bias
    up_bias: tl.tensor,  # likewise
    out: tl.tensor,  # [row, out]
    rows: tl.tensor,
    ins: tl.constexpr,
    outs: tl.constexpr,
    has_gate_bias: tl.constexpr,
    has_up_bias: tl.constexpr,
    numbers: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_outs: tl.constexpr,
    tile_ins: tl.constexpr,
) -> None:
    """Compute one tile of u * g / (1 + exp(-g)), g and u being products of the same rows."""
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    feature = tl.program_id(1).to(tl.int64) * tile_outs + tl.arange(0, tile_outs)
    is_row, is_feature = row < rows, feature < outs
    g = tl.zeros([tile_rows, tile_outs], tl.float32)
    u = tl.zeros([tile_rows, tile_outs], tl.float32)
    for start in range(0, ins, tile_ins):
        k = start + tl.arange(0, tile_ins)
        some = load_tile(x, row, k, is_row, ins, numbers)
        gates = load_tile(gate, feature, k, is_feature, ins, numbers)
        g = tl.dot(some, tl.trans(gates), g, input_precision="ieee")
        ups = load_tile(up, feature, k, is_feature, ins, numbers)
        u = tl.dot(some, tl.trans(ups), u, input_precision="ieee")
    if has_gate_bias:
        g += tl.load(gate_bias + feature, is_feature, other=0.0).to(tl.float32)[None, :]
    if has_up_bias:
        u += tl.load(up_bias + feature, is_feature, other=0.0).to(tl.float32)[None, :]
    at = row[:, None] * outs + feature[None, :]
    tl.store(out + at, u * g / (1.0 + tl.exp(-g)), is_row[:, None] & is_feature[None, :])
