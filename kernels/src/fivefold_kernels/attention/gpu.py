"""Tree attention on a GPU, by Triton; the twin of `reference.py`.

Flash-decoding: a text is cut into segments of fixed length by its positions, segments are attended
to at the same time, and merged in the order of the text by their maxima and sums. As in `tree.hpp`,
whole segments of the prefix are read once for all nodes and the heads that share them; what follows
(the tail: the rest of the prefix, then a node's ancestors) is gathered for each node. So a node's
result depends on the keys it sees and their order alone: not on the nodes or texts beside it, nor
on how many of its ancestors are committed.

Bytes bound: keys and values once, 2 * slots * dim * itemsize a KV head.

Source: Dao, Haziza, Massa, Sizov, "Flash-Decoding for long-context inference", 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UnsupportedError
from ..triton_modules import DEVICES, DTYPES, is_interpreted
from ..triton_modules import load_kernels as load
from .checks import check_heads, check_visible

LONGEST_SEGMENT = 128  # positions
SEGMENT_BYTES = {2: 32_768, 4: 16_384}  # by itemsize: of its keys; more do not fit into registers
WARPS = {2: 4, 4: 8}
LARGEST_DIM = 256
MOST_NODES = 64  # of a launch; bounds the room for what is found in each segment


def tree_attention(
    query: Float[Tensor, "batch node head dim"],
    key: Float[Tensor, "batch kv_head slot dim"],
    value: Float[Tensor, "batch kv_head slot dim"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    scale: float,
) -> Float[Tensor, "batch node head dim"]:
    """Attend each tree node to its row's prefix and to its own ancestors (see the reference).

    Numbers are multiplied in the wider of the two dtypes (float32 without TF32) and summed in
    float32. Nothing is read back from the device and all shapes follow from those of the arguments,
    so that a CUDA graph can hold it; hence `lengths` is not checked but clamped to
    0 .. slot - pending. Room: slot / segment * node * head * (dim + 2) floats a row of the batch,
    for 64 nodes at most.

    Raises:
        UnsupportedError: no Triton, no GPU, or tensors of another dtype, shape or layout.
    """
    return attend_seen(query, key, value, Seen.of(lengths, visible, key.shape[2]), scale)


@dataclass(frozen=True)
class Seen:
    """What the nodes of a pass see: the same for all layers, so it is made once for all."""

    lengths: Int[Tensor, " batch"]
    """Committed slots of each row, so many at most that the pending nodes have room."""
    order: Int[Tensor, "batch node pending"]
    """Pending nodes, those that a node sees first, each in the order of their slots."""
    count: Int[Tensor, "batch node"]
    """How many of them it sees."""

    @classmethod
    def of(
        cls, lengths: Int[Tensor, " batch"], visible: Bool[Tensor, "batch node pending"], slots: int
    ) -> Seen:
        """Read a mask over the pending nodes of a cache of so many slots.

        Raises:
            UnsupportedError: tensors of another dtype or shape, or more nodes than slots.
        """
        batch, nodes, pending = visible.shape
        check_visible(visible, batch, nodes)
        if lengths.shape != (batch,) or lengths.dtype not in (torch.int32, torch.int64):
            raise UnsupportedError("lengths are int32 or int64 [batch]")
        if pending > slots:
            raise UnsupportedError(f"{pending} pending nodes in a cache that has {slots} slots")
        order = visible.logical_not().to(torch.uint8).argsort(stable=True, dim=-1)
        return cls(lengths.clamp(0, slots - pending), order, visible.sum(-1))


def attend_seen(
    query: Float[Tensor, "batch node head dim"],
    key: Float[Tensor, "batch kv_head slot dim"],
    value: Float[Tensor, "batch kv_head slot dim"],
    seen: Seen,
    scale: float,
) -> Float[Tensor, "batch node head dim"]:
    """Attend each node to what it sees; arguments and errors as of `tree_attention`."""
    kernels = load_kernels()
    check(query, key, value, seen, kernels)
    query, nodes = query.contiguous(), query.shape[1]
    out = torch.empty_like(query)
    with torch.accelerator.device_index(key.device.index):
        for first in range(0, nodes, MOST_NODES):
            some = slice(first, first + MOST_NODES)
            attend(
                kernels, query[:, some], nodes, key, value, seen.lengths,
                seen.order[:, some].contiguous(), seen.count[:, some].contiguous(), scale,
                out[:, some],
            )  # fmt: skip
    return out


def attend(
    kernels: ModuleType,
    query: Float[Tensor, "batch node head dim"],
    all_nodes: int,
    key: Float[Tensor, "batch kv_head slot dim"],
    value: Float[Tensor, "batch kv_head slot dim"],
    lengths: Int[Tensor, " batch"],
    order: Int[Tensor, "batch node pending"],
    seen: Int[Tensor, "batch node"],
    scale: float,
    out: Float[Tensor, "batch node head dim"],
) -> None:
    """Launch both kernels for some nodes.

    Args:
        kernels: the module `gpu_kernels`.
        query: of some nodes; a view of all of them, which are contiguous, as is `out`.
        all_nodes: how many those are.
        key: of the cache.
        value: likewise.
        lengths: committed slots of each row.
        order: pending nodes, those that a node sees first, each in the order of their slots.
        seen: how many it sees.
        scale: factor on the scores.
        out: is written.
    """
    batch, nodes, heads, dim = query.shape
    kv_heads, slots, pending = key.shape[1], key.shape[2], order.shape[2]
    group = heads // kv_heads
    numbers = torch.promote_types(query.dtype, key.dtype)
    segment = segment_length(dim, numbers)
    launch = {"num_warps": WARPS[numbers.itemsize], "enable_fp_fusion": True}
    if numbers is torch.bfloat16 and is_interpreted(kernels):
        numbers = torch.float32  # the interpreter would multiply their bits
    parts, shared = math.ceil(slots / segment), slots // segment
    tails = math.ceil((segment - 1 + pending) / segment)
    mixtures = key.new_empty(batch, kv_heads, parts, nodes * group, dim, dtype=torch.float32)
    tops, totals = torch.empty_like(mixtures[..., 0]), torch.empty_like(mixtures[..., 0])
    shape = {"group": group, "dim": dim, "width": tile_width(dim), "segment": segment}
    kernels.attend_segments[shared + nodes * tails, kv_heads, batch](
        query, key, value, lengths, order, seen, tops, totals, mixtures,
        nodes, all_nodes, pending, shared, tails, parts, *key.stride()[:3], scale / math.log(2),
        **shape, **launch, numbers=getattr(kernels.tl, str(numbers).removeprefix("torch.")),
    )  # fmt: skip
    kernels.merge_segments[(batch * nodes * heads,)](
        tops, totals, mixtures, lengths, seen, out, nodes, all_nodes, parts,
        kv_heads=kv_heads, **shape, **launch,
    )  # fmt: skip


def tile_width(dim: int) -> int:
    """Return dim padded to what `tl.dot` takes."""
    return max(16, 1 << (dim - 1).bit_length())


def segment_length(dim: int, numbers: torch.dtype) -> int:
    """Return the positions of a segment; they follow from what the model is, from nothing else."""
    return min(
        LONGEST_SEGMENT, SEGMENT_BYTES[numbers.itemsize] // (tile_width(dim) * numbers.itemsize)
    )


def load_kernels() -> ModuleType:
    """Import the kernels, and Triton with them.

    Raises:
        UnsupportedError: Triton is not installed.
    """
    return load(f"{__package__}.gpu_kernels")


def check(query: Tensor, key: Tensor, value: Tensor, seen: Seen, kernels: ModuleType) -> None:
    """Refuse what the kernels would misread.

    Raises:
        UnsupportedError: says what they take.
    """
    if key.device.type not in DEVICES and not is_interpreted(kernels):
        raise UnsupportedError(
            f"keys on {key.device}; this kernel takes {' or '.join(DEVICES)}: attention.cpu serves "
            "the CPU, or set TRITON_INTERPRET=1 before Triton is imported"
        )
    if len({each.device for each in (query, key, value, seen.lengths, seen.order)}) > 1:
        raise UnsupportedError(f"tensors on several devices; move all of them to {key.device}")
    if query.dtype not in DTYPES or key.dtype not in DTYPES or value.dtype != key.dtype:
        raise UnsupportedError(
            f"queries {query.dtype}, keys {key.dtype}, values {value.dtype}; the kernel takes "
            "float32, bfloat16 or float16, keys and values alike"
        )
    if key.shape != value.shape or key.stride() != value.stride() or key.stride(3) != 1:
        raise UnsupportedError("keys and values must have one shape and one layout, dim innermost")
    batch, nodes, _, dim = query.shape
    if key.shape[3] != dim or not 1 < dim <= LARGEST_DIM:
        raise UnsupportedError(
            f"head size {dim} of queries, {key.shape[3]} of keys; the kernel takes one, "
            f"up to {LARGEST_DIM}"
        )
    check_heads(query, key)
    if seen.count.shape != (batch, nodes):
        raise UnsupportedError("visible is bool [batch, node, pending]")
