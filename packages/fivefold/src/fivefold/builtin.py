"""The tasks that the host brings itself: `fivefold plugins` and `fivefold cache`."""

from dataclasses import dataclass
from enum import StrEnum

from .description import Task
from .hooks import hookimpl


@dataclass
class PluginsConfig:
    """Show what is installed, what it offers, and what did not load."""

    json: bool = False
    """Write JSON for machines instead of a table; `--json` does the same."""


class CacheAction(StrEnum):
    """What to do with the cache folder."""

    LIST = "list"
    SIZE = "size"
    CLEAR = "clear"


@dataclass
class CacheConfig:
    """Show or empty the folder that converted models and compiled kernels are kept in."""

    action: CacheAction = CacheAction.LIST
    """List the entries with their sizes, give the size of all, or clear; `fivefold cache clear`
    does the same as `action=clear`."""
    entry: str = ""
    """Clear this entry only; all of them when empty."""


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe the host's own tasks."""
    plugins = Task(
        name="plugins",
        config=PluginsConfig,
        run="fivefold.listing:run",
        summary="show what is installed, what it offers, and what did not load",
        leaves_folder=False,
    )
    cache = Task(
        name="cache",
        config=CacheConfig,
        run="fivefold.cache:run",
        summary="list or clear the folder of converted models and compiled kernels",
        leaves_folder=False,
    )
    return [plugins, cache]
