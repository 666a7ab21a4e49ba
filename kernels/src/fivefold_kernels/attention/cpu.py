"""Tree attention on the CPU; the twin of `reference.py`."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UnsupportedError
from ..native.abi import Nodes

CACHE_DTYPES = (torch.float32, torch.bfloat16)


def tree_attention(
    query: Float[Tensor, "batch node head dim"],
    key: Float[Tensor, "batch kv_head slot dim"],
    value: Float[Tensor, "batch kv_head slot dim"],
    lengths: Int[Tensor, " batch"],
    visible: Bool[Tensor, "batch node pending"],
    scale: float,
    *,
    library: ctypes.CDLL,
    threads: int | None = None,
) -> Float[Tensor, "batch node head dim"]:
    """Attend each tree node to its row's prefix and to its own ancestors (see the reference).

    Bytes: keys and values once for all nodes and heads that share them.

    Raises:
        UnsupportedError: keys or values are of another dtype, shape or layout.
        MemoryError: no room for the sums.
    """
    batch, nodes, heads, dim = query.shape
    check_cache(key, value, dim, library)
    if heads % key.shape[1] or key.shape[0] != batch:
        raise UnsupportedError(f"{heads} heads over {key.shape[1]} KV heads, batch {batch}")
    slots = int(lengths.max()) + visible.shape[2]
    if slots > key.shape[2] or int(lengths.min()) < 0:
        raise UnsupportedError(f"{slots} slots are read of a cache that has {key.shape[2]}")
    if visible.shape[:2] != (batch, nodes) or visible.dtype != torch.bool:
        raise UnsupportedError("visible is bool [batch, node, pending]")
    scaled = (query.float() * scale).contiguous()
    seen, counts = visible.contiguous(), lengths.long().contiguous()
    out = torch.empty(batch, nodes, heads, dim)
    about = Nodes(
        batch, nodes, visible.shape[2], heads, key.shape[1], dim,
        counts.data_ptr(), seen.data_ptr(), *key.stride()[:3], key.dtype is torch.bfloat16,
    )  # fmt: skip
    status = library.ff_attention(
        ctypes.byref(about),
        scaled.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        out.data_ptr(),
        threads or torch.get_num_threads(),
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
    if key.shape != value.shape or key.stride() != value.stride() or key.stride(3) != 1:
        raise UnsupportedError("keys and values must have one shape and one layout, dim innermost")
    if key.shape[3] != dim or dim % library.ff_lanes():
        raise UnsupportedError(
            f"head size {dim}; this build takes multiples of {library.ff_lanes()}"
        )
