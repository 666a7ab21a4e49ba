"""RMS norm and rotary positions on a GPU, by Triton; twins of `reference.py`.

A row is computed by one program: nothing beside it changes its bits. Nothing is read
back from the device: a CUDA graph can hold them. All raise `UnsupportedError` where there is no
Triton or no GPU, and for tensors that are not contiguous.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UnsupportedError
from ..triton_modules import check_dense, check_device, load_kernels

KERNELS = f"{__package__}.gpu_kernels"


def rms_norm(
    x: Float[Tensor, "row dim"],
    weight: Float[Tensor, " dim"],
    eps: float,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "row dim"]:
    """Norm rows in float32: y = weight * x / sqrt(mean(x^2) + eps), rounded once to `dtype`."""
    kernels = load_kernels(KERNELS)
    check_dense(kernels, x, weight)
    rows, dim = x.shape
    out = torch.empty(rows, dim, dtype=dtype, device=x.device)
    with torch.accelerator.device_index(x.device.index):
        kernels.norm_row[(rows,)](x, weight, out, eps, dim=dim, width=power_of_two(dim))
    return out


def rotate_and_store(
    query: Float[Tensor, "row head dim"],
    key: Float[Tensor, "row kv_head dim"],
    value: Float[Tensor, "row kv_head dim"],
    cosine: Float[Tensor, "row half"],
    sine: Float[Tensor, "row half"],
    slots: Int[Tensor, "batch node"],
    keys: Float[Tensor, "batch kv_head slot dim"],
    values: Float[Tensor, "batch kv_head slot dim"],
) -> Float[Tensor, "row head dim"]:
    """Rotate queries and keys; write keys and values into their slots; return the queries.

    See the reference. Slots are not checked: they must lie in the cache.
    """
    kernels = load_kernels(KERNELS)
    check_dense(kernels, query, key, value, cosine, sine, slots)
    check_device(kernels, query, keys, values)
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise UnsupportedError("keys and values must have one layout, dim innermost")
    (rows, heads, dim), kv_heads = query.shape, key.shape[1]
    if dim % 2 or keys.shape[1] != kv_heads or keys.shape[3] != dim or slots.numel() != rows:
        raise UnsupportedError(
            f"queries {tuple(query.shape)}, keys {tuple(key.shape)}, cache {tuple(keys.shape)}"
        )
    out = torch.empty(query.shape, dtype=keys.dtype, device=query.device)
    with torch.accelerator.device_index(query.device.index):
        kernels.rotate_and_store[rows, heads + 2 * kv_heads](
            query, key, value, cosine, sine, slots, keys, values, out,
            slots.shape[1], *keys.stride()[:3],
            heads=heads, kv_heads=kv_heads, half=dim // 2, width=power_of_two(dim // 2),
        )  # fmt: skip
    return out


def power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
