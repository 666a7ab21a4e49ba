"""How a run ends: its exit status, its line on stderr, its `result.json`."""

import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .composition import Composition
from .description import load
from .errors import UserError
from .plugins import Plugins
from .result import Result
from .run import Run
from .streams import forget_stdout

_log = logging.getLogger("fivefold")

DONE, BUG, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: done; a check failed or a bug; a `UserError`; Ctrl-C."""


@dataclass
class Outcome:
    """How a job ended."""

    exit_status: int
    """As the process's."""
    status: str
    """As in `result.json`."""
    folder: str = ""
    """The run folder; empty when there is none."""
    sweep_folder: str = ""
    """The folder of the sweep that it is part of, if it is."""
    overrides: list[str] = field(default_factory=list)
    """What was set for it."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """The numbers that the task recorded."""


def conclude(
    task_name: str,
    act: Callable[[Result], int],
    *,
    folder: Path | None = None,
    debug: bool = False,
) -> Outcome:
    """Run something to its end, whatever the end, and say how it went.

    Args:
        task_name: the task.
        act: does the work and returns the exit status.
        folder: where `result.json` goes; nothing is written without one.
        debug: whether a `UserError` is shown with its traceback.
    """
    result = Result(task_name)
    outcome = Outcome(DONE, "ok", str(folder or ""), figures=result.figures)
    try:
        outcome.exit_status = act(result)
    except UserError as error:
        outcome.exit_status = REFUSED
        result.status, result.error = "error", error.describe()
        report(error, debug=debug)
    except KeyboardInterrupt:
        outcome.exit_status, result.status = INTERRUPTED, "partial"
        result.error = {"problem": "interrupted", "setting": "", "remedy": "run it again"}
    except BrokenPipeError:
        result.status = "partial"
        forget_stdout()
    except BaseException as error:
        outcome.exit_status = BUG
        problem = f"{type(error).__name__}: {error}"
        result.status, result.error = "error", {"problem": problem, "setting": "", "remedy": ""}
        _log.info("the task ended with a bug", exc_info=True)
        traceback.print_exc()
    if result.partial_error is not None and result.status == "ok":
        outcome.exit_status = outcome.exit_status or REFUSED
        result.status, result.error = "partial", result.partial_error.describe()
    outcome.status = result.status
    return _written(result, outcome, folder)


def run_composed(
    composition: Composition, plugins: Plugins, result: Result, folder: Path | None
) -> int:
    """Check a composition, import its task and call it; return the exit status.

    Raises:
        UserError: from the check or the task, with the value of its setting filled in.
    """
    task = composition.task
    run = Run(composition, plugins, result, folder)
    if composition.methods:
        run.environment(methods={hook: m.name for hook, m in composition.methods.items()})
    try:
        if task.check:
            load(task.check)(composition.config, run)
        return int(load(task.run)(composition.config, run) or DONE)
    except UserError as error:
        raise composition.located(error) from error.__cause__


def report(error: UserError, *, debug: bool = False) -> None:
    """Write a `UserError` to stderr as one line, and to the log."""
    if debug:
        traceback.print_exception(error)
    _log.info("%s", error)
    print(f"fivefold: {error}", file=sys.stderr, flush=True)


def _written(result: Result, outcome: Outcome, folder: Path | None) -> Outcome:
    if folder is None:
        return outcome
    try:
        result.write(folder)
    except UserError as error:
        report(error)
        outcome.exit_status = outcome.exit_status or REFUSED
    return outcome
