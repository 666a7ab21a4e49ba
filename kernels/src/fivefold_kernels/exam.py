"""Self-test and micro-benchmark of every kernel: is it right, and how far from its bound?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .attention import cpu as attention_cpu
from .attention import gpu as attention_gpu
from .attention import reference as attention_reference
from .attention.layout import KEY_BLOCK, block_keys
from .ceilings import gpu_read_bandwidth, gpu_seconds, median_seconds, read_bandwidth
from .errors import UnsupportedError
from .linear import gpu as linear_gpu
from .linear.packed import PackedMatrix
from .linear.reference import Format, float_linear, linear
from .native.library import cpu_library
from .native.machine import INSTRUCTION_SETS
from .triton_modules import DEVICES, is_interpreted, load_kernels

OUT, IN = 4096, 2048  # of the matrix: larger than the caches near the cores in every format
GPU_ROWS, OTHER_OUT = 128, 96  # rows whose bits are compared; outputs of the smallest matrix
SLOTS, HEADS, KV_HEADS, DIM = 4096, 8, 4, 64  # of the KV cache
SCALE = 0.1  # of scores
TOLERANCE = 1e-4  # of the largest number: what orders of summation explain
ROUNDED = 2**-7  # likewise, where weights and results are rounded to bfloat16
_GPU_FORMATS = {Format.F32: torch.float32, Format.BF16: torch.bfloat16}


@dataclass(frozen=True)
class Finding:
    """One kernel, looked at on this machine."""

    operation: str
    """What it computes, with the numbers' format."""
    implementation: str
    """An instruction set, `triton`, or a library."""
    is_library: bool = False
    """Whether it is a library's kernel, of which nobody promises row invariance."""
    why_not: str = ""
    """Why it does not run here; empty when it does."""
    error: float = 0.0
    """Largest difference from the plain reference, over the largest number."""
    tolerance: float = TOLERANCE
    """What it may be."""
    row_invariant: bool = False
    """Whether a row's result was bit for bit the same alone and beside others."""
    seconds: tuple[float, ...] = ()
    """Median time for each number of rows that was asked for."""
    bound: float = 0.0
    """Least time for one row: its bytes at the bandwidth measured in the same run."""

    @property
    def passed(self) -> bool:
        """Whether it runs and is right; ours must be row invariant as well."""
        invariant = self.row_invariant or self.is_library
        return not self.why_not and invariant and self.error <= self.tolerance


def examine(rows: Sequence[int], folder: Path | None = None) -> Iterator[Finding]:
    """Look at every operation in every build of the CPU kernels, then at those for a GPU.

    Args:
        rows: numbers of rows (of tree nodes, for attention) to time.
        folder: where compiled libraries are kept.
    """
    operations = [f"linear {format.name}" for format in Format]
    operations += [_attention_name(dtype) for dtype in attention_cpu.CACHE_DTYPES]
    for build in INSTRUCTION_SETS:
        if build.is_emulated:  # its times would say nothing
            continue
        try:
            library = cpu_library(build.name, folder)
        except UnsupportedError as error:
            yield from (Finding(name, build.name, why_not=str(error)) for name in operations)
            continue
        for format in Format:
            yield _linear(build.name, library, format, rows)
        for dtype in attention_cpu.CACHE_DTYPES:
            yield _attention(build.name, library, dtype, rows)
    device, why_not = _gpu()
    for format, dtype in _GPU_FORMATS.items():
        if why_not:
            yield Finding(f"linear {format.name}", "triton", why_not=why_not)
            yield Finding(_attention_name(dtype), "triton", why_not=why_not)
        else:
            yield _gpu_linear(device, format, rows)
            yield _gpu_attention(device, dtype, rows)


def examine_library(
    name: str,
    pack: Callable[[Tensor], Callable[[Tensor], Tensor]],
    dtype: torch.dtype,
    rows: Sequence[int],
    library: ctypes.CDLL | None,
) -> Finding:
    """Look at a library's product in the same way: right, as fast, row invariant?

    Args:
        name: of the library.
        pack: makes of a weight, [out, in], what multiplies rows, [row, in], with it.
        dtype: of weight and rows.
        rows: numbers of rows to time.
        library: any build of the CPU kernels, which measures the bandwidth; None: torch does.
    """
    weight = _numbers(OUT, IN).to(dtype)
    x = _numbers(max(*rows, 8), IN).to(dtype)
    format = Format.F32 if dtype is torch.float32 else Format.BF16
    wanted = linear(x[:4].float(), weight.float(), format)
    tolerance = TOLERANCE if dtype is torch.float32 else ROUNDED
    found = Finding(f"linear {format.name}", name, is_library=True, tolerance=tolerance)
    return _look_at(found, pack(weight), x, wanted, rows, weight.nbytes, library)


def _linear(name: str, library: ctypes.CDLL, format: Format, rows: Sequence[int]) -> Finding:
    packed = PackedMatrix.pack(_numbers(OUT, IN), format, library)
    x = _numbers(max(*rows, 8), IN)
    wanted = linear(x[:4], packed.rows(torch.arange(OUT)), format)
    found = Finding(f"linear {format.name}", name)
    return _look_at(found, packed.product, x, wanted, rows, packed.nbytes, library)


def _look_at(
    found: Finding,
    product: Callable[[Tensor], Tensor],
    x: Tensor,
    wanted: Tensor,
    rows: Sequence[int],
    nbytes: int,
    library: ctypes.CDLL | None,
) -> Finding:
    """Return what is found with a product's error, invariance and times; `wanted` is of 4 rows."""
    together = product(x)
    alone = torch.cat([product(row[None]) for row in x[:8]])
    return replace(
        found,
        error=_error(together[:4].float(), wanted),
        row_invariant=torch.equal(together[:8], alone),
        seconds=tuple(median_seconds(lambda n=n: product(x[:n])) for n in rows),  # type: ignore[misc]
        bound=nbytes / read_bandwidth(nbytes, library),
    )


def _attention(name: str, library: ctypes.CDLL, dtype: torch.dtype, rows: Sequence[int]) -> Finding:
    tree = _Tree.of(dtype, rows)
    keys = block_keys(tree.keys)

    def attend(first: int, last: int) -> Tensor:
        return attention_cpu.tree_attention(
            tree.query[:, first:last], keys, tree.values, tree.lengths,
            tree.seen[:, first:last, :last], SCALE, library=library,
        )  # fmt: skip

    return Finding(
        _attention_name(dtype),
        name,
        error=tree.error(attend),
        row_invariant=tree.is_row_invariant(attend),
        seconds=tuple(median_seconds(lambda n=n: attend(0, n)) for n in rows),  # type: ignore[misc]
        bound=tree.size / read_bandwidth(tree.size, library),
    )


def _gpu() -> tuple[torch.device, str]:
    """Return the device, and why kernels do not run on it."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type not in DEVICES:
        return device, "no GPU here; its tests interpret it on the CPU"
    try:
        attention_gpu.load_kernels()
    except UnsupportedError as error:
        return device, str(error)
    return device, ""


def _gpu_linear(device: torch.device, format: Format, rows: Sequence[int]) -> Finding:
    dtype = _GPU_FORMATS[format]
    weight, x = _numbers(OUT, IN).to(device, dtype), _numbers(max(*rows, GPU_ROWS), IN)
    x = x.to(device, dtype)
    together = linear_gpu.float_linear(x, weight)
    return Finding(
        f"linear {format.name}",
        "triton",
        error=_error(together[:4].cpu(), float_linear(x[:4].cpu(), weight.cpu())),
        row_invariant=_tiles_agree(x),
        seconds=tuple(
            gpu_seconds(lambda n=n: linear_gpu.float_linear(x[:n], weight))  # type: ignore[misc]
            for n in rows
        ),
        bound=weight.nbytes / gpu_read_bandwidth(weight.nbytes, device),
    )


def _tiles_agree(x: Tensor) -> bool:
    """Whether rows have the same bits in tiles of every shape, in each kind of product."""
    kernels = load_kernels("fivefold_kernels.linear.gpu_kernels")
    lines = [min(linear_gpu.TILES)] if is_interpreted(kernels) else sorted(linear_gpu.TILES)
    parts = [*x[:8].split(1), *x[8:GPU_ROWS].split(GPU_ROWS // 2)]
    for outs in (line or OTHER_OUT for line in lines):
        weight = _numbers(outs, IN).to(x)
        for product in (_one, _three, _gated):
            alone = torch.cat([product(some, weight) for some in parts])
            if not torch.equal(product(x[:GPU_ROWS], weight), alone):
                return False
    return True


def _one(x: Tensor, weight: Tensor) -> Tensor:
    return linear_gpu.float_linear(x, weight)


def _three(x: Tensor, weight: Tensor) -> Tensor:
    thirds = [some.contiguous() for some in weight.tensor_split(3)]
    return torch.cat(linear_gpu.three_linears(x, thirds, [None] * 3), dim=1)


def _gated(x: Tensor, weight: Tensor) -> Tensor:
    return linear_gpu.gated_linear(x, weight, weight.flip(0).contiguous())


def _gpu_attention(device: torch.device, dtype: torch.dtype, rows: Sequence[int]) -> Finding:
    tree = _Tree.of(dtype, rows)
    query = tree.query.to(device, dtype)
    keys, values, lengths, seen = (
        each.to(device) for each in (tree.keys, tree.values, tree.lengths, tree.seen)
    )

    def attend(first: int, last: int) -> Tensor:
        return attention_gpu.tree_attention(
            query[:, first:last], keys, values, lengths, seen[:, first:last, :last], SCALE
        )

    return Finding(
        _attention_name(dtype),
        "triton",
        error=tree.error(attend),
        tolerance=TOLERANCE if dtype is torch.float32 else ROUNDED,
        row_invariant=tree.is_row_invariant(attend),
        seconds=tuple(gpu_seconds(lambda n=n: attend(0, n)) for n in rows),  # type: ignore[misc]
        bound=tree.size / gpu_read_bandwidth(tree.size, device),
    )


@dataclass(frozen=True)
class _Tree:
    """A chain of nodes behind a long prefix; `attend(first, last)` is given to its methods."""

    query: Tensor  # [1, node, head, dim]
    keys: Tensor  # [1, kv_head, slot, dim]
    values: Tensor
    lengths: Tensor  # [1]
    seen: Tensor  # [1, node, node]

    @classmethod
    def of(cls, dtype: torch.dtype, rows: Sequence[int]) -> _Tree:
        """Make one of all the nodes that are timed, its cache in a dtype."""
        nodes = max(*rows, 8)
        slots = -(-(SLOTS + nodes) // KEY_BLOCK) * KEY_BLOCK
        keys = _numbers(1, KV_HEADS, slots, DIM).to(dtype)
        seen = torch.ones(nodes, nodes, dtype=torch.bool).tril()[None]
        query = _numbers(1, nodes, HEADS, DIM).to(dtype).float()
        return cls(query, keys, keys.flip(2), torch.tensor([SLOTS]), seen)

    @property
    def size(self) -> int:
        """Bytes of the prefix."""
        return 2 * KV_HEADS * SLOTS * DIM * self.keys.element_size()

    def error(self, attend: Callable[[int, int], Tensor]) -> float:
        """Return the largest difference from the plain reference, over the largest number."""
        wanted = attention_reference.tree_attention(
            self.query, self.keys, self.values, self.lengths, self.seen, SCALE
        )
        return _error(attend(0, self.query.shape[1]).float().cpu(), wanted)

    def is_row_invariant(self, attend: Callable[[int, int], Tensor]) -> bool:
        """Whether nodes have the same bits alone and beside all others."""
        alone = torch.cat([attend(node, node + 1) for node in range(8)], dim=1)
        return torch.equal(attend(0, self.query.shape[1])[:, :8], alone)


def _attention_name(dtype: torch.dtype) -> str:
    return f"tree_attention {str(dtype).removeprefix('torch.')}"


def _numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())
