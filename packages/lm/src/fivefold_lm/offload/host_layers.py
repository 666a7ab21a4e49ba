"""Layers in host memory, pinned, from where they are copied to an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from jaxtyping import UInt8
from torch import Tensor

from .storage import LayerLayout, Weights, aligned_bytes


class HostLayers:
    """One storage a layer; those that are streamed are kept, in pinned memory where that goes.

    Args:
        planned: returns tensors of a layer's shapes.
        read: returns a layer's weights, plain tensors.
        count: layers.
        kept: layers that are copied again and again.
        pin: returns so many bytes of pinned memory; raises RuntimeError where it cannot.
        say: told once when memory cannot be pinned.
    """

    def __init__(
        self,
        planned: Callable[[int], Weights],
        read: Callable[[int], Weights],
        count: int,
        kept: Collection[int],
        pin: Callable[[int], Tensor],
        say: Callable[[str], None],
    ) -> None:
        self.layouts = [LayerLayout.of(planned(layer)) for layer in range(count)]
        self.sizes = [layout.nbytes for layout in self.layouts]
        self.reads = "pinned"
        self._read, self._say, self._pin = read, say, pin
        self._kept: dict[int, Tensor] = {}
        for layer in sorted(kept):
            self._kept[layer] = self._filled(layer, self._pinned(self.sizes[layer]))

    def load(self, layer: int, buffer: UInt8[Tensor, " byte"]) -> None:
        """Copy a layer: enqueued where the buffer is an accelerator's and the memory pinned."""
        storage = self._kept.get(layer)
        if storage is None:
            storage = self._filled(layer, aligned_bytes(self.sizes[layer]))
            buffer[: storage.numel()].copy_(storage)  # once; returns when it is over
            return
        buffer[: storage.numel()].copy_(storage, non_blocking=True)

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Forget the storages."""
        self._kept.clear()

    def _filled(self, layer: int, storage: Tensor) -> Tensor:
        self.layouts[layer].fill(storage, self._read(layer))
        return storage

    def _pinned(self, size: int) -> Tensor:
        """Return pinned memory, or pageable memory from the first time on that there is none."""
        if self.reads == "pinned":
            try:
                return self._pin(size)
            except RuntimeError as error:
                self.reads = "pageable"
                self._say(
                    "warning: host memory cannot be pinned, so that copies do not overlap with "
                    f"computation ({str(error).splitlines()[0]})"
                )
        return aligned_bytes(size)


def pinned(size: int) -> UInt8[Tensor, " byte"]:
    """Return so many bytes of pinned memory."""
    with torch.inference_mode(False):
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
