"""What the machine could do at best: bytes and floating-point operations a second."""

from __future__ import annotations

import ctypes
import importlib
import statistics
import time
from collections.abc import Callable

import torch

from .linear.packed import PackedMatrix
from .linear.reference import Format
from .native.memory import streamed_zeros
from .native.threads import num_threads

TRIES = 7


def median_seconds(call: Callable[[], object], tries: int = TRIES) -> float:
    """Return the median time of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(tries):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def read_bandwidth(size: int, library: ctypes.CDLL | None, threads: int | None = None) -> float:
    """Return bytes a second of reading a buffer of `size` bytes again and again.

    A buffer of the size of the weights, in pages as theirs: what fits into a cache is read faster.
    Without a build of our kernels torch sums it.
    """
    buffer = streamed_zeros((max(size // 4, 1),), torch.float32).fill_(1)
    if library is None:
        return buffer.nbytes / median_seconds(buffer.sum)
    count = threads or num_threads()
    seconds = median_seconds(lambda: library.ff_read(buffer.data_ptr(), buffer.numel(), count))
    return buffer.nbytes / seconds


def product_rate(dtype: torch.dtype, side: int = 1024) -> float:
    """Return floating-point operations a second of torch's product of two square matrices."""
    square = torch.ones(side, side, dtype=dtype)
    return 2 * side**3 / median_seconds(lambda: square @ square)


def packed_rate(format: Format, library: ctypes.CDLL, side: int = 1024) -> float:
    """Return floating-point operations a second of our own product of square matrices."""
    square = torch.ones(side, side)
    packed = PackedMatrix.pack(square, format, library)
    return 2 * side**3 / median_seconds(lambda: packed.product(square))


def gpu_seconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU, nothing it reads being in its caches before."""
    return (
        float(importlib.import_module("triton.testing").do_bench(call, return_mode="median")) / 1e3
    )


def gpu_read_bandwidth(size: int, device: torch.device) -> float:
    """Return bytes a second of summing a buffer of `size` bytes on the GPU."""
    buffer = torch.ones(size // 4, device=device)
    return buffer.nbytes / gpu_seconds(buffer.sum)
