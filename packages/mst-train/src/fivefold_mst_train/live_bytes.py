"""Counting live bytes and the largest tensor, operation by operation, on any device.

Byte-exact and deterministic: what torch's dispatcher sees, so every output of forward, backward
and a checkpoint's replay. It does not see what a kernel takes and gives back inside (a softmax's
scratch, oneDNN's packed weights), nor what the allocator keeps.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Track the storages that operations create while the mode is entered.

    Bytes of what existed before are not counted: parameters, and gradients if they were allocated
    before. A storage counts from the operation that makes it until it is freed, once, however many
    views it has. An operation that returns what it was given (in place, or a view) makes nothing.

    Attributes:
        live: bytes alive now.
        peak: most bytes alive at a time since the start or the last `reset_peak`.
        max_numel: elements of the largest tensor made.
        sizes: how many tensors of each shape were made (with `shapes=True`).
    """

    def __init__(self, *, shapes: bool = False) -> None:
        """Start at zero.

        Args:
            shapes: also count the tensors made by shape.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.max_numel = 0
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self._shapes = shapes
        self._bytes: dict[int, int] = {}

    def __enter__(self) -> LiveBytes:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def reset_peak(self) -> None:
        """Let the peak begin at what is alive now."""
        self.peak = self.live

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and register what it made."""
        output = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if made:
            given = {
                leaf.untyped_storage()._cdata
                for leaf in tree_leaves((args, kwargs))
                if isinstance(leaf, Tensor)
            }
            for tensor in made:
                self._register(tensor, given)
        return output

    def _register(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in given or key in self._bytes:
            return
        if self._shapes:
            self.sizes[tuple(tensor.shape)] += 1
        self.max_numel = max(self.max_numel, tensor.numel())
        self._bytes[key] = storage.nbytes()
        self.live += self._bytes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self._bytes.pop(key, 0)


def live_peak(step: Callable[[], object]) -> int:
    """Return the most bytes that operations of a step keep alive at a time, over what was there."""
    with LiveBytes() as counter:
        step()
    return counter.peak


def resident_peak(device: torch.device) -> int | None:
    """Return the most bytes the process has held: an accelerator's allocator, else the process.

    For a CPU it is the peak resident set, of which libraries and weights are a part.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on this system
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
