"""What this package offers to the host: its optimisers and its tasks. Light: no numpy."""

from __future__ import annotations

from fivefold import Method, Task, hookimpl


@hookimpl
def fivefold_optimization() -> list[Method]:
    """Describe Quark and the classical methods it is compared with."""
    return []


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe quantum, quantum plan and quantum export."""
    return []
