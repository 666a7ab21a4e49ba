"""Counting live bytes and the largest tensor, operation by operation, on any device.

Byte-exact and deterministic: what torch's dispatcher sees, so every output of forward, backward
and a checkpoint's replay. It does not see what a kernel takes and gives back inside (a softmax's
scratch, oneDNN's packed weights), nor what the allocator keeps.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


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
        made = [each for each in _tensors((output,)) if _key(each) not in self._bytes]
        if made:
            given = {_key(each) for each in _tensors((*args, *(kwargs or {}).values()))}
            for tensor in made:
                self._register(tensor, given)
        return output

    def _register(self, tensor: Tensor, given: set[int]) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
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


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """Yield the tensors among an operation's arguments or results: bare, or in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
