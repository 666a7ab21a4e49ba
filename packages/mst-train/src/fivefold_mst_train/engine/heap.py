"""Memory that tensors on a CPU leave behind in the C library's heap."""

from __future__ import annotations

import ctypes
import os
import platform

_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of `mallopt`."""
_LARGE = 4 << 20
"""Bytes from which a block gets pages of its own."""


def return_large_blocks() -> bool:
    """Let blocks of 4 MiB and more go back to the system when they are freed, under glibc.

    Left alone, glibc raises that bound to 32 MiB while a program runs. Hidden states of long
    sequences are smaller, and their gaps then stay in a heap that grows far beyond what lives in
    it. `MALLOC_MMAP_THRESHOLD_` in the environment goes before.

    Returns:
        Whether the bound was set; with another C library it is not.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE))
