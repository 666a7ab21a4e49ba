"""What this machine could do at best: bytes and products a second, and a pass bound by them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

_SIDE = 1024
_TRIES = 7


@dataclass(frozen=True)
class Machine:
    """Ceilings, measured in the same run.

    Args:
        bytes_per_second: reading a buffer of the size of the weights, which may partly sit in a
            cache as the weights do.
        flops_per_second: products of square matrices in the weights' number format.
    """

    bytes_per_second: float
    flops_per_second: float

    def pass_bound(self, module: nn.Module, rows: int) -> float:
        """Return the least seconds of a forward pass: weights read once, 2 products a weight."""
        reading = weight_bytes(module) / self.bytes_per_second
        counting = 2 * num_weights(module) * rows / self.flops_per_second
        return max(reading, counting)


def num_cores() -> int:
    """Return the processors this process may use."""
    return len(os.sched_getaffinity(0))


def measure(module: nn.Module, threads: int) -> Machine:
    """Measure the ceilings with a number of threads."""
    torch.set_num_threads(threads)
    dtype = next(module.parameters()).dtype
    buffer = torch.ones(weight_bytes(module) // 4, dtype=torch.float32)
    square = torch.ones(_SIDE, _SIDE, dtype=dtype)
    reading = _best(lambda: buffer.sum())
    counting = _best(lambda: square @ square)
    return Machine(buffer.nbytes / reading, 2 * _SIDE**3 / counting)


def num_weights(module: nn.Module) -> int:
    """Return the weights that a pass multiplies with; tied ones count once, as output layer."""
    return sum(weight.numel() for weight in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of these weights."""
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _best(function: Callable[[], object]) -> float:
    times = []
    for _ in range(_TRIES):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)
