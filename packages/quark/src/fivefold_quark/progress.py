"""The live progress of a search: a bar on stderr, where somebody watches it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fivefold import Choice

from .engine.optimizer import Callback, Progress
from .engine.problem import Problem


@contextmanager
def watching(choice: Choice, problem: Problem) -> Iterator[Sequence[Callback]]:
    """Yield the callbacks that show a search; none where stderr is no terminal.

    Args:
        choice: the method, for its name and its budget.
        problem: for the number of settings.
    """
    if not sys.stderr.isatty():
        yield ()
        return
    from rich import progress as rich
    from rich.console import Console

    budget = getattr(getattr(choice.settings, "budget", None), "shots", None)
    total = min(budget or problem.register.size, problem.register.size)
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[said]}"),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(f"{choice.method.name} on {problem.name}", total=total, said="")

        def show(progress: Progress) -> None:
            said = (
                f"best {progress.incumbent:.3f}  {progress.ledger.measurements} measurements  "
                f"{progress.ledger.model_queries} queries  k={progress.k}"
            )
            bar.update(shown, completed=min(progress.round, total), said=said)

        yield (show,)
