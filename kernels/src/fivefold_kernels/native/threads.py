"""Who has the processor's cores: our team of threads, or torch's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_OURS = threading.local()


def num_threads() -> int:
    """Return how many threads a kernel takes when its caller says nothing: torch's number."""
    count: int = getattr(_OURS, "count", 0)
    return count or torch.get_num_threads()


@contextmanager
def own_threads() -> Iterator[None]:
    """Leave the cores to our kernels: torch's own operators run on one thread meanwhile.

    OpenMP's threads spin for milliseconds after each of torch's operators, in wait for the next.
    Between our passes those operators are small, and the spinning takes the core that our team
    needs: passes of a draft then cost two to three times as much.
    """
    if getattr(_OURS, "count", 0):
        yield
        return
    _OURS.count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_OURS.count)
        _OURS.count = 0
