"""Products of few rows with matrices of floats on a GPU, by Triton; twins of `reference.py`.

Each program computes a tile of outputs over all inputs, in one order: no sum is split among
programs. Tiles are taller where there are more rows, and smaller ones read the weights faster
where there are few. That tiles of all shapes give a row the same bits is how tensor cores were seen
to add up, no promise of theirs: `fivefold kernels` looks whether the GPU at hand does so. cuBLAS
chooses other orders by the number of rows.

Bytes bound: the matrix once, out * in * itemsize, as far as the tiles of rows find it in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedError
from ..triton_modules import DTYPES, check_dense, is_interpreted, load_kernels


class Tile(NamedTuple):
    """What one program computes, and how: the fastest of those tried on an H200."""

    rows: int
    outs: int
    ins: int
    """Inputs of a step."""
    warps: int
    stages: int


TILE_EDGES = (16, 64)
"""Most rows of a product whose tiles are the first and the second of a line below."""
TILES = {
    8192: (Tile(16, 64, 128, 4, 4), Tile(64, 64, 64, 4, 6), Tile(128, 128, 64, 4, 3)),
    5120: (Tile(16, 32, 256, 4, 3), Tile(64, 32, 128, 4, 4), Tile(64, 64, 64, 4, 6)),
    2048: (Tile(16, 16, 256, 2, 6), Tile(64, 32, 128, 4, 4), Tile(64, 64, 64, 4, 6)),
    0: (Tile(16, 16, 128, 4, 4), Tile(64, 16, 128, 4, 4), Tile(64, 32, 128, 4, 4)),
}
"""By the least number of outputs: few in a tile where there are few, so that all processors have
one; then by the number of rows."""
GATED_TILES = {
    8192: (Tile(16, 64, 128, 4, 3), Tile(64, 64, 64, 4, 3), Tile(128, 64, 64, 4, 3)),
    2048: (Tile(16, 32, 256, 4, 3), Tile(64, 16, 128, 4, 4), Tile(64, 32, 64, 4, 6)),
    0: (Tile(16, 16, 128, 2, 6), Tile(64, 16, 128, 4, 4), Tile(64, 16, 128, 4, 4)),
}
"""Likewise for gate and up together, which read the weights of both."""
WIDE = {8192: 64, 2048: 32, 0: 16}
"""Outputs of a tile of float32, which has no tensor cores, whatever the number of rows."""


def tile_of(
    rows: int, outs: int, itemsize: int, is_gated: bool = False, room: int | None = None
) -> Tile:
    """Return the tile of a product.

    Args:
        rows: of the product.
        outs: of the matrix, or of three together.
        itemsize: bytes of a number.
        is_gated: two matrices at a time.
        room: bytes of memory of a program, where less is to be had than an A100 has: tiles keep
            their shape, and fewer of them are loaded ahead.
    """
    if itemsize > 2:
        tile = Tile(16, WIDE[_line(WIDE, outs)], 64, 4, 4)
    else:
        tiles = GATED_TILES if is_gated else TILES
        tile = tiles[_line(tiles, outs)][sum(rows > edge for edge in TILE_EDGES)]
    stage = (tile.rows + (1 + is_gated) * tile.outs) * tile.ins * itemsize
    stages = tile.stages if room is None else max(1, min(tile.stages, room // stage))
    return tile._replace(stages=stages)


def _line(tiles: Mapping[int, object], outs: int) -> int:
    return max(least for least in tiles if outs >= least)


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
    tile = _tile(kernels, x, outs)
    with torch.accelerator.device_index(x.device.index):
        kernels.multiply[_grid(tile, rows, outs)](
            x, weight, weight if bias is None else bias, out if add is None else add, out,
            rows, ins, outs, has_bias=bias is not None, has_add=add is not None,
            **_launch(kernels, tile, weight.dtype),
        )  # fmt: skip
    return out


def three_linears(
    x: Float[Tensor, "row in"],
    weights: Sequence[Float[Tensor, "_ in"]],
    biases: Sequence[Float[Tensor, " _"] | None],
) -> tuple[Float[Tensor, "row _"], ...]:
    """Multiply rows with three matrices, such as a layer's query, key and value, in one launch.

    As `float_linear` with each; errors likewise.
    """
    if len(weights) != 3 or len(biases) != 3:
        raise UnsupportedError(f"{len(weights)} matrices and {len(biases)} biases; it takes three")
    kernels = load_kernels(f"{__package__}.gpu_kernels")
    for weight, bias in zip(weights, biases, strict=True):
        check(kernels, x, weight, bias, None)
    rows, ins = x.shape
    sizes = [weight.shape[0] for weight in weights]
    outs = [torch.empty(rows, size, dtype=torch.float32, device=x.device) for size in sizes]
    tile = _tile(kernels, x, sum(sizes))
    tiles = sum(-(-size // tile.outs) for size in sizes)
    given = [weight if bias is None else bias for weight, bias in zip(weights, biases, strict=True)]
    with torch.accelerator.device_index(x.device.index):
        kernels.multiply_three[-(-rows // tile.rows), tiles](
            x, *weights, *given, *outs, rows, ins, *sizes,
            *(bias is not None for bias in biases), **_launch(kernels, tile, x.dtype),
        )  # fmt: skip
    return tuple(outs)


def gated_linear(
    x: Float[Tensor, "row in"],
    gate: Float[Tensor, "out in"],
    up: Float[Tensor, "out in"],
    gate_bias: Float[Tensor, " out"] | None = None,
    up_bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "row out"]:
    """Gate a product by another of the same rows: u * g / (1 + exp(-g)), in the dtype of the rows.

    As `float_linear` with each and the gate in float32, rounded once; errors likewise.
    """
    kernels = load_kernels(f"{__package__}.gpu_kernels")
    check(kernels, x, gate, gate_bias, None)
    check(kernels, x, up, up_bias, None)
    if gate.shape != up.shape:
        raise UnsupportedError(f"gate {tuple(gate.shape)} and up {tuple(up.shape)}")
    (rows, ins), outs = x.shape, gate.shape[0]
    out = torch.empty(rows, outs, dtype=x.dtype, device=x.device)
    tile = _tile(kernels, x, outs, is_gated=True)
    with torch.accelerator.device_index(x.device.index):
        kernels.multiply_gated[_grid(tile, rows, outs)](
            x, gate, up, gate if gate_bias is None else gate_bias,
            up if up_bias is None else up_bias, out, rows, ins, outs,
            has_gate_bias=gate_bias is not None, has_up_bias=up_bias is not None,
            **_launch(kernels, tile, x.dtype),
        )  # fmt: skip
    return out


def _tile(kernels: ModuleType, x: Tensor, outs: int, is_gated: bool = False) -> Tile:
    if is_interpreted(kernels):  # NumPy, which computes then, has other bits for other shapes
        return tile_of(1, outs, x.itemsize, is_gated)
    return tile_of(len(x), outs, x.itemsize, is_gated, _room(x.device))


def _room(device: torch.device) -> int | None:
    """Return the bytes that a program may hold; None where nobody says."""
    if device.type != "cuda":
        return None
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", None)


def _grid(tile: Tile, rows: int, outs: int) -> tuple[int, int]:
    return -(-rows // tile.rows), -(-outs // tile.outs)  # tiles of rows share weights in time


def _launch(kernels: ModuleType, tile: Tile, numbers: torch.dtype) -> dict[str, Any]:
    if numbers is torch.bfloat16 and is_interpreted(kernels):
        numbers = torch.float32  # the interpreter would multiply their bits
    return {
        "numbers": getattr(kernels.tl, str(numbers).removeprefix("torch.")),
        "tile_rows": tile.rows,
        "tile_outs": tile.outs,
        "tile_ins": tile.ins,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
    }


def check(
    kernels: ModuleType, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None
) -> None:
    """Refuse what the kernels would misread.

    Raises:
        UnsupportedError: says what they take.
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
