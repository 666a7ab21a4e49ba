"""Passes recorded once a shape and replayed: CUDA graphs, and the few that are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fivefold_kernels.decoder.cpu import Scores
from torch import Tensor

MOST = 32
"""Graphs kept: those of a draft's levels, of the target's tree and of plain decoding."""

Recorder = Callable[[Callable[[], Scores]], Callable[[], Scores]]
"""Takes a pass over buffers that stay where they are; returns what runs it again on whatever they
hold then, with results in the same place each time. Recording yields no result."""


class CudaGraphRecorder:
    """Records passes as CUDA graphs, which share one pool of memory for what lies in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Callable[[], Scores]) -> Callable[[], Scores]:
        """Run the pass once, which compiles kernels, then record it.

        Raises:
            RuntimeError: the driver, or an operation of the pass, does not let itself be recorded.
        """
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                scores = run()
        self._pool = self._pool or graph.pool()

        def replay() -> Scores:
            graph.replay()
            return scores

        return replay


@dataclass(frozen=True)
class _Recorded:
    """One pass: the buffers that it reads, and what runs it."""

    buffers: tuple[Tensor, ...]
    replay: Callable[[], Scores]


class Graphs:
    """The passes recorded so far; those not used for longest are forgotten."""

    def __init__(self, record: Recorder, most: int = MOST) -> None:
        self._record = record
        self._most = most
        self._kept: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget all: something that they read has moved."""
        self._kept.clear()

    def run(
        self, key: Hashable, given: Sequence[Tensor], body: Callable[[Sequence[Tensor]], Scores]
    ) -> Scores:
        """Run a pass over some inputs by the graph of its key, recorded when first asked for.

        Args:
            key: all that the graph depends on but the inputs' shapes and dtypes.
            given: inputs; they are copied.
            body: the pass, of inputs in the order of `given`.

        Returns:
            Scores of their own, which no later pass overwrites.

        Raises:
            RuntimeError: the pass cannot be recorded.
        """
        place = (key, *((each.shape, each.dtype) for each in given))
        recorded = self._kept.get(place)
        if recorded is None:
            buffers = tuple(map(_buffer_of, given))
            recorded = _Recorded(buffers, self._record(lambda: body(buffers)))
            self._kept[place] = recorded
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        for buffer, each in zip(recorded.buffers, given, strict=True):
            buffer.copy_(each)
        hidden, logits = recorded.replay()
        return Scores(hidden.clone(), None if logits is None else logits.clone())


def _buffer_of(given: Tensor) -> Tensor:
    with torch.inference_mode(False):
        buffer = torch.empty(given.shape, dtype=given.dtype, device=given.device)
    return buffer.copy_(given)
