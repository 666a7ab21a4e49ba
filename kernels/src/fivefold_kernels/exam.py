"""Self-test and micro-benchmark of every kernel: is it right, and how far from its bound?"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .attention import cpu as attention_cpu
from .attention import reference as attention_reference
from .ceilings import median_seconds, read_bandwidth
from .errors import UnsupportedError
from .linear.packed import PackedMatrix
from .linear.reference import Format, linear
from .native.library import cpu_library
from .native.machine import INSTRUCTION_SETS

OUT, IN = 4096, 2048  # of the matrix: larger than the caches near the cores in every format
SLOTS, HEADS, KV_HEADS, DIM = 4096, 8, 4, 64  # of the KV cache
TOLERANCE = 1e-4  # of the largest number: what orders of summation explain


@dataclass(frozen=True)
class Finding:
    """One kernel, looked at on this machine."""

    operation: str
    """What it computes, with the numbers' format."""
    implementation: str
    """An instruction set."""
    why_not: str = ""
    """Why it does not run here; empty when it does."""
    error: float = 0.0
    """Largest difference from the plain reference, over the largest number."""
    row_invariant: bool = False
    """Whether a row's result was bit for bit the same alone and beside others."""
    seconds: tuple[float, ...] = ()
    """Median time for each number of rows that was asked for."""
    bound: float = 0.0
    """Least time for one row: its bytes at the bandwidth measured in the same run."""

    @property
    def passed(self) -> bool:
        """Whether it runs and is right."""
        return not self.why_not and self.row_invariant and self.error <= TOLERANCE


def examine(rows: Sequence[int], folder: Path | None = None) -> Iterator[Finding]:
    """Look at every operation in every build of the CPU kernels.

    Args:
        rows: numbers of rows (of tree nodes, for attention) to time.
        folder: where compiled libraries are kept.
    """
    operations = [f"linear {format.name}" for format in Format]
    operations += ["tree_attention float32", "tree_attention bfloat16"]
    for build in INSTRUCTION_SETS:
        try:
            library = cpu_library(build.name, folder)
        except UnsupportedError as error:
            yield from (Finding(name, build.name, why_not=str(error)) for name in operations)
            continue
        for format in Format:
            yield _linear(build.name, library, format, rows)
        for dtype in attention_cpu.CACHE_DTYPES:
            yield _attention(build.name, library, dtype, rows)


def _linear(name: str, library: ctypes.CDLL, format: Format, rows: Sequence[int]) -> Finding:
    weight = _numbers(OUT, IN)
    packed = PackedMatrix.pack(weight, format, library)
    x = _numbers(max(*rows, 8), IN)
    together = packed.product(x)
    alone = torch.cat([packed.product(row[None]) for row in x[:8]])
    wanted = linear(x[:4], packed.rows(torch.arange(OUT)), format)
    return Finding(
        f"linear {format.name}",
        name,
        error=_error(together[:4], wanted),
        row_invariant=torch.equal(together[:8], alone),
        seconds=tuple(median_seconds(lambda n=n: packed.product(x[:n])) for n in rows),  # type: ignore[misc]
        bound=packed.nbytes / read_bandwidth(packed.nbytes, library),
    )


def _attention(name: str, library: ctypes.CDLL, dtype: torch.dtype, rows: Sequence[int]) -> Finding:
    nodes = max(*rows, 8)
    keys = _numbers(1, KV_HEADS, SLOTS + nodes, DIM).to(dtype)
    values = _numbers(1, KV_HEADS, SLOTS + nodes, DIM).flip(2).to(dtype)
    query, lengths = _numbers(1, nodes, HEADS, DIM), torch.tensor([SLOTS])
    seen = torch.ones(nodes, nodes, dtype=torch.bool).tril()[None]

    def attend(first: int, last: int) -> Tensor:
        return attention_cpu.tree_attention(
            query[:, first:last], keys, values, lengths, seen[:, first:last, :last], 0.1,
            library=library,
        )  # fmt: skip

    wanted = attention_reference.tree_attention(query, keys, values, lengths, seen, 0.1)
    together = attend(0, nodes)
    alone = torch.cat([attend(n, n + 1) for n in range(8)], dim=1)
    size = 2 * KV_HEADS * SLOTS * DIM * keys.element_size()
    return Finding(
        f"tree_attention {str(dtype).removeprefix('torch.')}",
        name,
        error=_error(together, wanted),
        row_invariant=torch.equal(together[:, :8], alone),
        seconds=tuple(median_seconds(lambda n=n: attend(0, n)) for n in rows),  # type: ignore[misc]
        bound=size / read_bandwidth(size, library),
    )


def _numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())
