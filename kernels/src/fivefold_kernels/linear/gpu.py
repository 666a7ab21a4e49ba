"""Products of few rows with a matrix of floats on a GPU, by Triton; a twin of `reference.py`.

Each program computes a tile of outputs over all inputs: no sum is split among programs, and tiles
follow from the matrix alone. So a row's result has one order of accumulation and one binary,
whatever is computed beside it (cuBLAS chooses another kernel, and another order, by the number of
rows).

Bytes bound: the matrix once, out * in * itemsize, as far as the tiles of rows find it in the cache.
"""

from __future__ import annotations

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedError
from ..triton_modules import DTYPES, check_dense, is_interpreted, load_kernels

TILE_ROWS = {2: 64, 4: 16}  # by itemsize: float32 has no tensor cores, rows of padding cost there
TILE_INS = {2: 128, 4: 64}
WARPS, STAGES = 4, 4


def float_linear(
    x: Float[Tensor, "row in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None = None,
    add: Float[Tensor, "row out"] | None = None,
) -> Float[Tensor, "row out"]:
    """Multiply rows with a matrix of floats: y = x w^T + b + a, in float32 (see the reference).

    Products are exact (float32 without TF32) and summed in float32, then `bias`, then `add`.
    Nothing is read back from the device: a CUDA graph can hold it.

    Raises:
        UnsupportedError: no Triton, no GPU, or tensors of another dtype, shape or layout.
    """
    kernels = load_kernels(f"{__package__}.gpu_kernels")
    check(kernels, x, weight, bias, add)
    (rows, ins), outs = x.shape, weight.shape[0]
    out = torch.empty(rows, outs, dtype=torch.float32, device=x.device)
    tile_rows, tile_outs = TILE_ROWS[weight.itemsize], outputs_of_tile(outs)
    numbers = weight.dtype
    if numbers is torch.bfloat16 and is_interpreted(kernels):
        numbers = torch.float32  # the interpreter would multiply their bits
    grid = (-(-rows // tile_rows), -(-outs // tile_outs))  # tiles of rows share weights in time
    with torch.accelerator.device_index(x.device.index):
        kernels.multiply[grid](
            x, weight, weight if bias is None else bias, out if add is None else add, out,
            rows, ins, outs, has_bias=bias is not None, has_add=add is not None,
            numbers=getattr(kernels.tl, str(numbers).removeprefix("torch.")),
            tile_rows=tile_rows, tile_outs=tile_outs, tile_ins=TILE_INS[weight.itemsize],
            num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def outputs_of_tile(outs: int) -> int:
    """Return the outputs of a tile, few enough that all processors of a GPU have one."""
    return 64 if outs >= 8192 else 32 if outs >= 2048 else 16


def check(
    kernels: ModuleType, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None
) -> None:
    """Refuse what the kernel would misread.

    Raises:
        UnsupportedError: says what it takes.
    """
    check_dense(kernels, x, weight, *(each for each in (bias, add) if each is not None))
    if x.dtype != weight.dtype or x.dtype not in DTYPES:
        raise UnsupportedError(f"rows {x.dtype} and weights {weight.dtype}; the kernel takes one")
    (rows, ins), outs = x.shape, weight.shape[0]
    if weight.shape != (outs, ins):
        raise UnsupportedError(f"rows of {ins} numbers, weights {tuple(weight.shape)}")
    if bias is not None and bias.shape != (outs,):
        raise UnsupportedError(f"a bias {tuple(bias.shape)} for {outs} outputs")
    if add is not None and (add.shape != (rows, outs) or add.dtype is not torch.float32):
        raise UnsupportedError(f"what is added must be float32 [{rows}, {outs}]")
