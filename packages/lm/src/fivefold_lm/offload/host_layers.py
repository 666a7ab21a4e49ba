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
        pin: pins host memory, in place; raises RuntimeError where it cannot.
        say: told once when memory cannot be pinned.
    """

    def __init__(
        self,
        planned: Callable[[int], Weights],
        read: Callable[[int], Weights],
        count: int,
        kept: Collection[int],
        pin: Callable[[Tensor], Tensor] | None,
        say: Callable[[str], None],
    ) -> None:
        self.layouts = [LayerLayout.of(planned(layer)) for layer in range(count)]
        self.sizes = [layout.nbytes for layout in self.layouts]
        self.reads = "pageable" if pin is None else "pinned"
        self._read, self._say, self._pin = read, say, pin
        self._kept = {layer: self._storage(layer, pinned=True) for layer in sorted(kept)}

    def load(self, layer: int, buffer: UInt8[Tensor, " byte"]) -> None:
        """Copy a layer: enqueued where the buffer is an accelerator's and the memory pinned."""
        storage = self._kept.get(layer)
        if storage is None:
            storage = self._storage(layer, pinned=False)
            buffer[: storage.numel()].copy_(storage)  # once; returns when it is over
            return
        buffer[: storage.numel()].copy_(storage, non_blocking=True)

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Forget the storages."""
        self._kept.clear()

    def _storage(self, layer: int, pinned: bool) -> Tensor:
        layout = self.layouts[layer]
        storage = aligned_bytes(layout.nbytes)
        if pinned and self._pin is not None:
            try:
                storage = self._pin(storage)
            except RuntimeError as error:
                self._pin, self.reads = None, "pageable"
                self._say(
                    "warning: host memory cannot be pinned, so that copies do not overlap with "
                    f"computation ({str(error).splitlines()[0]})"
                )
        layout.fill(storage, self._read(layer))
        return storage


def pinned(storage: Tensor) -> Tensor:
    """Return pinned memory of the same size."""
    with torch.inference_mode(False):
        return storage.pin_memory()
