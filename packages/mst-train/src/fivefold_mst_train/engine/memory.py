"""How much memory a step takes above parameters, gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..live_bytes import LiveBytes
from .config import When

MEASURED_STEPS = 2
"""Steps whose tensors are counted on a CPU, where counting costs time."""


class PeakMeter:
    """Measures the peak of forward and backward.

    On an accelerator by its allocator, at every step; on a CPU by counting live tensors
    (`LiveBytes`), in the first steps, unless the user wants all. Gradients are there before the
    step begins, so that their growth does not hide the activations.

    Args:
        module: what is trained.
        device: where.
        when: whether to measure.
        keeps_gradients: whether gradients last until the optimizer steps. Where they do not, the
            first step is left out: it makes the optimizer's state in backward.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        when: When,
        keeps_gradients: bool = True,
    ) -> None:
        self.module, self.device, self.when = module, device, when
        self.keeps_gradients = keeps_gradients
        self.live: int | None = None
        self._measured = 0
        self._has_state = keeps_gradients

    @contextmanager
    def watch(self, number: int) -> Iterator[None]:
        """Measure what happens inside.

        Args:
            number: of the step, for the log; steps are counted from the first that was watched.
        """
        has_state, self._has_state = self._has_state, True
        if self.when is When.NEVER or not has_state:
            yield
        elif self.device.type == "cpu":
            yield from self._counted()
        else:
            yield from self._allocated()

    def _counted(self) -> Iterator[None]:
        if self.when is When.AUTO and self._measured >= MEASURED_STEPS:
            yield
            return
        self._measured += 1
        for weight in self._trained() if self.keeps_gradients else ():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        with LiveBytes() as counter:
            yield
        self._take(counter.peak)

    def _allocated(self) -> Iterator[None]:
        torch.accelerator.reset_peak_memory_stats(self.device)
        before = torch.accelerator.memory_allocated(self.device)
        fresh = 0
        if self.keeps_gradients:
            fresh = sum(_bytes(weight) for weight in self._trained() if weight.grad is None)
        yield
        self._take(torch.accelerator.max_memory_allocated(self.device) - before - fresh)

    def _take(self, peak: int) -> None:
        self.live = max(self.live or 0, peak)

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self.module.parameters() if weight.requires_grad]


def _bytes(weight: Tensor) -> int:
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return local.numel() * local.element_size()
