"""How many layers stay: a budget for the weights, or what memory is free."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError

from .sizes import in_units

BUFFERS = 2
"""Buffers of the ring: one is computed with while the other is filled. One more would save the load
of a layer only where drafting leaves the link idle; a layer that stays saves it in every pass."""
_SHARE = 0.1  # of free memory that is left alone
_TOKENS, _NODES = 4096, 256  # whose keys and values, and whose logits, are left room for


def resident_layers(
    sizes: Sequence[int], fixed: int, budget: int, copies: int = 1, asked: str = ""
) -> int:
    """Return how many layers stay on the device.

    Args:
        sizes: bytes of each layer.
        fixed: bytes of what stays in any case.
        budget: bytes that all weights may take.
        copies: how often the weights of a layer are there while it runs: 2 when they are packed
            anew for each use.
        asked: the setting's value, for errors; empty: free memory decides.

    Raises:
        UserError: there is not even room for the buffers.
    """
    if fixed + copies * sum(sizes) <= budget:
        return len(sizes)
    largest = max(sizes)
    ring = (min(BUFFERS, len(sizes)) + copies - 1) * largest
    left = budget - fixed - ring
    if left < 0:
        raise UserError(
            f"{in_units(max(budget, 0))} are too little: embeddings, norms and output layer take "
            f"{in_units(fixed)}, {BUFFERS} buffers of a layer {in_units(ring)}",
            setting="model.memory",
            value=asked,
            remedy=f"give {in_units(math.ceil((fixed + ring) * 1.01))} or more, "
            "or a smaller number format (model.dtype, model.weights)",
        )
    return min(left // (copies * largest), len(sizes) - 1)


def free_bytes(device: torch.device) -> int:
    """Return how much memory this process can still take on a device."""
    if device.type != "cpu":
        free, _ = torch.get_device_module(device).mem_get_info(device)
        return int(free)
    return min(_system_free(), _group_free())


def reserved_bytes(config: Any, dtype: torch.dtype, free: int) -> int:
    """Return what is left alone of free memory: keys and values, logits, and a share of it all."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = min(int(getattr(config, "max_position_embeddings", _TOKENS)), _TOKENS)
    cached = 2 * int(config.num_hidden_layers) * heads * dim * longest * dtype.itemsize
    logits = 2 * 4 * _NODES * int(config.vocab_size)
    return int(cached + logits + _SHARE * free)


def _system_free() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pages = os.sysconf("SC_PHYS_PAGES")  # no system that says what is free: half of it all
        return pages * os.sysconf("SC_PAGE_SIZE") // 2


def _group_free() -> int:
    """Return what a container's limit leaves; huge where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return int(limit) - used
    except (OSError, ValueError):  # no such file, or the limit "max"
        return 2**62
