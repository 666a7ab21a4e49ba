"""Fivefold's host: describe methods and tasks, choose them on one command line, run them.

A plugin imports `Method`, `Task`, `Group` and `hookimpl` to describe what it brings, `UserError`
to refuse, and `Run` to report. Nothing here imports torch, and nothing is loaded before it is
asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .description import Group, Method, Task
    from .errors import UserError, nearest
    from .hooks import hookimpl
    from .run import Choice, Run
    from .version import __version__

__all__ = [
    "Choice",
    "Group",
    "Method",
    "Run",
    "Task",
    "UserError",
    "__version__",
    "hookimpl",
    "nearest",
]

_HOMES = {
    "Choice": "run",
    "Group": "description",
    "Method": "description",
    "Run": "run",
    "Task": "description",
    "UserError": "errors",
    "__version__": "version",
    "hookimpl": "hooks",
    "nearest": "errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
