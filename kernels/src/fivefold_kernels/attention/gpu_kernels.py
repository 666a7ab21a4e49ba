"""The two Triton kernels of tree attention; `gpu.py` checks, lays out and launches.

A row is a (node, head of a group) of one batch row and KV head. What varies with the tree, the
batch or the prefix is not specialized on: one binary serves all, so that bits cannot depend on it.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

ROWS = tl.constexpr(16)  # of a product: the least that `tl.dot` takes
PARTS = tl.constexpr(16)  # segments merged at a time
VARYING = ("nodes", "all_nodes", "pending", "shared", "tails", "parts")


@triton.jit(do_not_specialize=VARYING)
@no_type_check
def attend_segments(
    query: tl.tensor,  # [batch, node, head, dim], a batch row all_nodes after the one before
    key: tl.tensor,  # [batch, kv_head, slot, dim], by strides
    value: tl.tensor,
    lengths: tl.tensor,  # [batch]
    order: tl.tensor,  # [batch, node, pending]: pending nodes, those that the node sees first
    seen: tl.tensor,  # [batch, node]: how many it sees
    tops: tl.tensor,  # [batch, kv_head, part, row]: largest score
    totals: tl.tensor,  # likewise: sum of 2^(score - top)
    mixtures: tl.tensor,  # [batch, kv_head, part, row, dim]: sum of 2^(score - top) * value
    nodes: tl.tensor,
    all_nodes: tl.tensor,
    pending: tl.tensor,
    shared: tl.tensor,  # units for segments of the prefix; those for tails follow
    tails: tl.tensor,  # units for the tail of a node
    parts: tl.tensor,
    batch_stride: tl.tensor,
    head_stride: tl.tensor,
    slot_stride: tl.tensor,
    scale: tl.tensor,  # in powers of two
    group: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,  # of a tile: dim or more
    segment: tl.constexpr,
    numbers: tl.constexpr,  # what is multiplied
) -> None:
    """Attend to one segment of a text: all rows to one of the prefix, a node's to one of its tail.

    Both are the same code on tiles of the same shape: a segment has the same bits in either.
    """
    unit = tl.program_id(0)
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + batch).to(tl.int32)
    whole = length // segment
    is_tail = unit >= shared
    node = tl.where(is_tail, (unit - shared) // tails, 0)
    part = tl.where(is_tail, whole + (unit - shared) % tails, unit)
    of_node = batch * nodes + node
    text = tl.where(is_tail, length + tl.load(seen + of_node), whole * segment)
    if part * segment >= text:
        return

    position = part * segment + tl.arange(0, segment)
    is_key = position < text
    is_pending = is_key & (position >= length)
    ancestor = tl.load(order + of_node * pending + (position - length), is_pending, other=0)
    slot = tl.where(is_pending, length + ancestor, position).to(tl.int64)
    d = tl.arange(0, width)
    at = batch * batch_stride + head * head_stride + slot[:, None] * slot_stride + d[None, :]
    is_number = is_key[:, None] & (d < dim)[None, :]
    keys = tl.load(key + at, is_number, other=0.0).to(numbers)  # [segment, width]
    values = tl.load(value + at, is_number, other=0.0).to(numbers)

    first = node * group
    last = tl.where(is_tail, first + group, nodes * group)
    kv_heads = tl.num_programs(1)
    partial = ((batch * kv_heads + head) * parts + part) * (nodes * group)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        is_row = row < last
        is_mine = is_row[:, None] & (d < dim)[None, :]
        of_head = (batch * all_nodes + row // group) * kv_heads + head
        from_row = (of_head * group + row % group) * dim
        queries = tl.load(query + from_row[:, None] + d[None, :], is_mine, other=0.0).to(numbers)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        top = tl.max(scores, 1)
        weights = tl.exp2(scores - top[:, None])
        mixture = tl.dot(weights.to(numbers), values, input_precision="ieee")
        tl.store(tops + partial + row, top, is_row)
        tl.store(totals + partial + row, tl.sum(weights, 1), is_row)
        tl.store(mixtures + (partial + row)[:, None] * dim + d[None, :], mixture, is_mine)


@triton.jit(do_not_specialize=("nodes", "all_nodes", "parts"))
@no_type_check
def merge_segments(
    tops: tl.tensor,
    totals: tl.tensor,
    mixtures: tl.tensor,
    lengths: tl.tensor,
    seen: tl.tensor,
    out: tl.tensor,  # as query
    nodes: tl.tensor,
    all_nodes: tl.tensor,
    parts: tl.tensor,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    segment: tl.constexpr,
) -> None:
    """Merge the segments of one row by their places in the text; out of the text weighs nothing."""
    program = tl.program_id(0).to(tl.int64)
    of_node, head = program // (kv_heads * group), program % (kv_heads * group)
    batch, node = of_node // nodes, of_node % nodes
    text = (tl.load(lengths + batch) + tl.load(seen + of_node)).to(tl.int32)
    count = (text + segment - 1) // segment
    rows = nodes * group
    row = (batch * kv_heads + head // group) * parts * rows + node * group + head % group

    best = tl.full([PARTS], float("-inf"), tl.float32)
    for start in range(0, count, PARTS):
        part = start + tl.arange(0, PARTS)
        best = tl.maximum(best, tl.load(tops + row + part * rows, part < count, float("-inf")))
    top = tl.max(best, 0)
    d = tl.arange(0, width)
    total = tl.full([PARTS], 0.0, tl.float32)
    mixture = tl.full([PARTS, width], 0.0, tl.float32)
    for start in range(0, count, PARTS):
        part = start + tl.arange(0, PARTS)
        is_part = part < count
        at = row + part * rows
        weight = tl.exp2(tl.load(tops + at, is_part, float("-inf")) - top)
        total += weight * tl.load(totals + at, is_part, 0.0)
        is_number = is_part[:, None] & (d < dim)[None, :]
        found = tl.load(mixtures + at[:, None] * dim + d[None, :], is_number, 0.0)
        mixture += weight[:, None] * found
    mixed = tl.sum(mixture, 0) / tl.sum(total, 0)
    to = ((batch * all_nodes + node) * kv_heads * group + head) * dim
    tl.store(out + to + d, mixed, d < dim)
