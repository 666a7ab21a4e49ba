"""The bandwidth of the disk under the caches, past the page cache, by the best way to ask."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from fivefold.cache import cache_folder

BLOCKS = (1 << 20, 4 << 20, 8 << 20)
"""Bytes that are asked of the disk at a time."""
READERS = (1, 2, 4, 8)
"""Blocks that are asked at the same time: what it takes to have the disk's bandwidth."""


def direct_read_rate(nbytes: int) -> float:
    """Return bytes a second of direct reads in the folder of the caches, the faster of two kinds.

    A file that was just written, and the streamed layers themselves: a virtual disk may hold either
    nearer than the other.

    Args:
        nbytes: what one pass streams.
    """
    folders = [place for place in (cache_folder() / "offload").iterdir() if place.is_dir()]
    newest = max(folders, key=lambda place: place.stat().st_mtime)
    rate = _read_rate(sorted(newest.glob("*.layer")))
    with tempfile.NamedTemporaryFile(dir=cache_folder()) as file:
        for _ in range(-(-nbytes // BLOCKS[0])):
            file.write(os.urandom(BLOCKS[0]))
        file.flush()
        os.fsync(file.fileno())
        return max(rate, _read_rate([Path(file.name)]))


def _read_rate(files: Sequence[Path], rounds: int = 3) -> float:
    """Return bytes a second of reading files past the page cache, by the best way to ask."""
    try:
        sources = [os.open(file, os.O_RDONLY | getattr(os, "O_DIRECT", 0)) for file in files]
    except OSError:  # a file system that knows no direct reads
        sources = [os.open(file, os.O_RDONLY) for file in files]
    try:
        sizes = [file.stat().st_size for file in files]
        taken = []
        for block, readers in product(BLOCKS, READERS):
            places = [
                (source, first)
                for source, size in zip(sources, sizes, strict=True)
                for first in range(0, size, block)
            ]
            taken += [_read(sources, places, block, readers) for _ in range(rounds)]
    finally:
        for source in sources:
            os.close(source)
    return sum(sizes) / min(taken)


def _read(
    sources: Sequence[int], places: Sequence[tuple[int, int]], block: int, readers: int
) -> float:
    """Return the seconds that some readers take together for all blocks."""
    if hasattr(os, "posix_fadvise"):
        for source in sources:
            os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(first: int) -> None:
        buffer = mmap.mmap(-1, block)  # begins at a page, as direct reads ask
        for source, place in places[first::readers]:
            os.preadv(source, [buffer], place)

    with ThreadPoolExecutor(readers) as pool:
        begin = time.perf_counter()
        list(pool.map(read, range(readers)))
        return time.perf_counter() - begin
