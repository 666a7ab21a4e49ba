"""Time of the stages of a step, measured without making the host wait for an accelerator."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class Timing:
    """Seconds spent in each stage by all rows together.

    On a CUDA device stages are bracketed by events, read when somebody asks; elsewhere the clock
    is the host's.

    Args:
        device: where the stages run.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def run(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function and add its time to a stage."""
        if self._cuda:
            return self._run_on_cuda(stage, function, *args, **kwargs)
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        self._seconds[stage] += time.perf_counter() - begin
        return result

    def _run_on_cuda(
        self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        begin, end = _event(), _event()
        begin.record()
        result = function(*args, **kwargs)
        end.record()
        self._events.append((stage, begin, end))
        return result

    def metrics(self) -> dict[str, float]:
        """Return seconds by stage: t_prefill, t_draft, t_target, t_accept, t_keep."""
        for stage, begin, end in self._events:
            end.synchronize()
            self._seconds[stage] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
