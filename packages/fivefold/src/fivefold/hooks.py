"""The hooks: five that offer methods, one that offers tasks.

A hook is called once, at start, to describe. What a method's `build` returns is called directly.
"""

import pluggy

from .description import Method, Task

PROJECT = "fivefold"
"""The project name that pluggy's markers carry, and the entry point group of plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

HOOKS = ("drafting", "attention", "correction", "training", "optimization")
"""The hooks that offer methods; the function of `drafting` is `fivefold_drafting`."""


@hookspec
def fivefold_drafting() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that propose tokens for the target to verify."""


@hookspec
def fivefold_attention() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that keep the KV cache and attend over it."""


@hookspec
def fivefold_correction() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that decide which drafted tokens stand and repair the cache."""


@hookspec
def fivefold_training() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that change how a model is trained."""


@hookspec
def fivefold_optimization() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that search the parameters of a problem."""


@hookspec
def fivefold_tasks() -> list[Task]:  # type: ignore[empty-body]
    """Return the tasks that a user can run."""
