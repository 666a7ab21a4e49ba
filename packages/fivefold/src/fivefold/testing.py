"""For tests of plugins: compose a task in process, as the command line does, without a run."""

from collections.abc import Iterable
from pathlib import Path

from .composing import composing
from .discovery import installed
from .plugins import Plugins
from .result import Result
from .run import Run

__all__ = ["compose"]


def compose(
    task: str,
    overrides: Iterable[str] = (),
    *,
    plugins: Plugins | None = None,
    folder: Path | None = None,
) -> Run:
    """Return the `Run` that a task function would be given.

    Args:
        task: the task's name.
        overrides: as the shell's words would be: `drafting=chain`, `prompt=any text`.
        plugins: what is installed; this environment's when not given.
        folder: a run folder, for code that asks for one.

    Raises:
        UserError: whatever the command line would refuse.
    """
    found = plugins or installed()
    with composing(found.task(task), found) as composer:
        composition = composer.compose(list(overrides))
    return Run(composition, found, Result(task), folder)
