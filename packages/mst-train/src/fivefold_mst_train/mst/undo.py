"""Setting attributes of modules so that all of it can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

_ABSENT = object()


@dataclass
class Undo:
    """What was set on instances, and what stood there before; classes are never touched."""

    _done: list[tuple[Any, str, Any]] = field(default_factory=list)

    def set(self, module: nn.Module, name: str, value: object) -> None:
        """Set an attribute of one instance, past `nn.Module`'s own bookkeeping."""
        self._done.append((module, name, module.__dict__.get(name, _ABSENT)))
        module.__dict__[name] = value

    def set_attribute(self, thing: Any, name: str, value: object) -> None:
        """Set an attribute of a config."""
        self._done.append((thing, name, thing.__dict__.get(name, _ABSENT)))
        thing.__dict__[name] = value

    def revert(self) -> None:
        """Put everything back, the newest first."""
        while self._done:
            module, name, before = self._done.pop()
            if before is _ABSENT:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before
