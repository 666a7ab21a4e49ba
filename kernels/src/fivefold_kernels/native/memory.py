"""Memory for what a pass streams through: weights, keys and values, in huge pages where they exist.

Ordinary pages of 4 KB stop the processor's prefetcher every 64 lines and overflow its table of
pages; the same bytes in pages of 2 MB are read a quarter to a third faster.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest register
HUGE = 2 << 20  # bytes of a huge page
CHUNK = 32 << 20  # bytes that are fetched from the system at once


class Arena:
    """Hands out zeroed memory, one piece after the other, from chunks of huge pages.

    Small pieces share pages. A chunk goes back to the system when the last tensor in it dies.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk: Tensor = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, size: int) -> UInt8[Tensor, " byte"]:
        """Return zeroed bytes that begin at a cache line."""
        with self._lock:
            if self._used + size > self._chunk.numel():
                if size > CHUNK // 4:
                    return _fresh(size)
                self._chunk, self._used = _fresh(CHUNK), 0
            taken = self._chunk[self._used : self._used + size]
            self._used += -(-size // ALIGNMENT) * ALIGNMENT
            return taken


_ARENA = Arena()


def streamed_bytes(size: int) -> UInt8[Tensor, " byte"]:
    """Return zeroed bytes for a packed matrix; many small ones lie close together."""
    return _ARENA.take(size)


def streamed_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Shaped[Tensor, ...]:
    """Return zeros on the CPU; in huge pages when they fill some."""
    size = math.prod(shape) * dtype.itemsize
    if size < HUGE:
        return torch.zeros(shape, dtype=dtype)
    return _fresh(size).view(dtype).view(shape)


def _fresh(size: int) -> Tensor:
    """Return zeroed bytes at the start of a huge page, or of a cache line where there are none."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        memory = torch.zeros(size + ALIGNMENT, dtype=torch.uint8)
        start = -memory.data_ptr() % ALIGNMENT
        return memory[start : start + size]
    room = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(room, dtype=torch.uint8)
    start = -memory.data_ptr() % HUGE
    with contextlib.suppress(OSError):  # a kernel without them: the same memory in small pages
        room.madvise(mmap.MADV_HUGEPAGE)
    return memory[start : start + size]
