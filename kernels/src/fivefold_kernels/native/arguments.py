"""What the CPU kernels, which read plain memory, ask of every argument first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UnsupportedError
from .threads import num_threads

MOST_THREADS = 1024


def check_floats(name: str, tensor: Tensor, shape: Sequence[int] | None = None) -> None:
    """Refuse a tensor that is not one of real floats on the CPU, or of another shape.

    Raises:
        UnsupportedError: names it, and what is taken.
    """
    if tensor.device.type != "cpu" or not tensor.dtype.is_floating_point:
        raise UnsupportedError(
            f"{name} of {tensor.dtype} on {tensor.device}; the kernel takes floats on the CPU"
        )
    if shape is not None and tensor.shape != tuple(shape):
        raise UnsupportedError(f"{name} {tuple(tensor.shape)}; expected {tuple(shape)}")


def check_indices(name: str, tensor: Tensor, shape: Sequence[int] | None = None) -> None:
    """Refuse a tensor that is not one of whole numbers on the CPU, or of another shape.

    Raises:
        UnsupportedError: names it, and what is taken.
    """
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.int32, torch.int64):
        raise UnsupportedError(
            f"{name} of {tensor.dtype} on {tensor.device}; the kernel takes int32 or int64 on "
            "the CPU"
        )
    if shape is not None and tensor.shape != tuple(shape):
        raise UnsupportedError(f"{name} {tuple(tensor.shape)}; expected {tuple(shape)}")


def thread_count(threads: int | None) -> int:
    """Return how many threads a kernel takes; None: torch's number.

    Raises:
        UnsupportedError: fewer than one, or more than any machine has.
    """
    if threads is None:
        return num_threads()
    if not 1 <= threads <= MOST_THREADS:
        raise UnsupportedError(f"{threads} threads; give 1 to {MOST_THREADS}")
    return threads
