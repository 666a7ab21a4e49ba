"""The largest number of bytes that a rank's tensors held at once, counted by their storages."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .transport import Program

T = TypeVar("T")


class PeakBytes(TorchDispatchMode):
    """Counts storages that are made while it is entered, until they are freed.

    It may be entered again and again: what was made within stays counted in between.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def metered(program: Program[T], meter: PeakBytes) -> Program[T]:
    """Run a rank's program under a meter that does not count the ranks it alternates with."""
    arrived: Tensor | None = None
    while True:
        try:
            with meter:
                need = next(program) if arrived is None else program.send(arrived)
        except StopIteration as stop:
            result: T = stop.value
            return result
        arrived = yield need


def held_bytes(tensors: list[Tensor]) -> int:
    """Return the bytes of tensors that are there before any step: weights, features, edges."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
