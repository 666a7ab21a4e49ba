"""Tree attention on the CPU; the twin of `reference.py`."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UnsupportedError
from ..native.abi import Nodes
from ..native.arguments import check_floats, check_indices, thread_count
from .checks import check_heads, check_visible
from .layout import KEY_BLOCK

CACHE_DTYPES = (torch.float32, torch.bfloat16)


def tree_attention(
    query: Float[Tensor, "batch node head dim"],
    key: Float[Tensor, "batch kv_head block dim 16"],
    value: Float[Tensor, "batch kv_head slot dim"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    scale: float,
    *,
    library: ctypes.CDLL,
    threads: int | None = None,
) -> Float[Tensor, "batch node head dim"]:
    """Attend each tree node to its row's prefix and to its own ancestors (see the reference).

    Keys lie in blocks of 16 slots, as `layout.block_keys` brings them.

    Bytes: keys and values once for all nodes and heads that share them.

    Raises:
        UnsupportedError: keys or values are of another dtype, shape or layout.
        MemoryError: no room for the sums.
    """
    check_floats("queries", query)
    if query.ndim != 4 or key.ndim != 5 or value.ndim != 4:
        raise UnsupportedError(
            f"queries {tuple(query.shape)}, keys {tuple(key.shape)}, values {tuple(value.shape)}; "
            "the kernel takes [batch, node, head, dim] and a cache"
        )
    batch, nodes, heads, dim = query.shape
    check_cache(key, value, dim, library)
    check_heads(query, key)
    check_visible(visible, batch, nodes)
    check_indices("lengths", lengths, (batch,))
    if visible.device.type != "cpu" or not batch or not nodes:
        raise UnsupportedError(f"{nodes} nodes of {batch} rows, visible on {visible.device}")
    slots = int(lengths.max()) + visible.shape[2]
    if slots > value.shape[2] or int(lengths.min()) < 0:
        raise UnsupportedError(f"{slots} slots are read of a cache that has {value.shape[2]}")
    scaled = (query.float() * scale).contiguous()
    seen, counts = visible.contiguous(), lengths.long().contiguous()
    out = torch.empty(batch, nodes, heads, dim)
    about = Nodes(
        batch, nodes, visible.shape[2], heads, key.shape[1], dim,
        counts.data_ptr(), seen.data_ptr(), *value.stride()[:2], key.dtype is torch.bfloat16,
    )  # fmt: skip
    status = library.ff_attention(
        ctypes.byref(about),
        scaled.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        out.data_ptr(),
        thread_count(threads),
    )
    if status:
        raise MemoryError("no memory for attention")
    return out.to(query.dtype)


def check_cache(key: Tensor, value: Tensor, dim: int, library: ctypes.CDLL) -> None:
    """Refuse keys and values that the kernel would misread.

    Raises:
        UnsupportedError: says what it takes.
    """
    if key.dtype not in CACHE_DTYPES or value.dtype != key.dtype or key.device.type != "cpu":
        raise UnsupportedError(
            f"keys {key.dtype}, values {value.dtype} on {key.device}; the kernel takes float32 or "
            "bfloat16 on the CPU"
        )
    batch, heads, slots, size = value.shape
    if key.shape != (batch, heads, slots // KEY_BLOCK, size, KEY_BLOCK) or slots % KEY_BLOCK:
        raise UnsupportedError(
            f"keys {tuple(key.shape)} beside values {tuple(value.shape)}; the kernel takes keys as "
            "block_keys lays them out, over whole blocks of 16 slots"
        )
    inner = (size * KEY_BLOCK, KEY_BLOCK, 1)
    if key.stride() != (*value.stride()[:2], *inner) or value.stride()[2:] != (size, 1):
        raise UnsupportedError("keys and values of a head must lie in one piece")
    if size != dim or dim % library.ff_lanes():
        raise UnsupportedError(
            f"head size {dim}; this build takes multiples of {library.ff_lanes()}"
        )


def move_slots(
    data: Float[Tensor, "plane batch kv_head *slots"],
    source: Int[Tensor, "batch count"],
    target: Int[Tensor, "batch count"],
    library: ctypes.CDLL,
) -> None:
    """Copy slots of each row in all planes, in place.

    Args:
        data: contiguous keys, [.., block, dim, 16], or values, [.., slot, dim].
        source: ascending in each row.
        target: ascending, none after its source.
        library: a build of the kernels.

    Raises:
        UnsupportedError: a layout that the kernel would misread, or slots outside of the cache.
    """
    check_floats("data", data)
    if data.ndim not in (5, 6) or not data.is_contiguous():
        raise UnsupportedError(f"data {tuple(data.shape)}; the kernel takes contiguous planes")
    planes, batch, heads, _, dim = data.shape[:5]
    check_indices("source", source, (batch, source.shape[-1]))
    check_indices("target", target, tuple(source.shape))
    slots = data.shape[3] * (KEY_BLOCK if data.ndim == 6 else 1)
    old, new = source.long().contiguous(), target.long().contiguous()
    for places in (old, new):
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < slots:
            raise UnsupportedError(f"slots outside of a cache that has {slots}")
    library.ff_move_slots(
        data.data_ptr(), data.ndim == 6, data.element_size(), planes, batch, heads, slots, dim,
        old.data_ptr(), new.data_ptr(), old.shape[1],
    )  # fmt: skip
