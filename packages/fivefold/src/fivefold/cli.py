"""The command `fivefold`: read the words, find the task, do what was asked, end cleanly."""

import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .description import Task
from .discovery import installed
from .errors import UserError, nearest
from .plugins import Plugins
from .schema import TaskSchema, field_names
from .shim import CommandLine, action_override, read_command_line, split_task
from .streams import forget_stdout

DONE, REFUSED, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; nothing is raised but bugs.

    Args:
        arguments: the words after `fivefold`; those of the process when not given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _clean_end():
        try:
            status = _run(words)
            sys.stdout.flush()
            return status
        except UserError as error:
            if _wants_traceback(words):
                traceback.print_exc()
            print(f"fivefold: {error}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            print("fivefold: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            forget_stdout()
            return DONE


def _run(words: list[str]) -> int:
    _check_encoding(words)
    line = read_command_line(words)
    if line.wants_version:
        from .version import __version__

        print(f"fivefold {__version__}")
        return DONE
    if line.has("--shell-completion", "-sc"):
        from .completion import complete

        return complete(line)
    if line.has("--hydra-help"):
        from .help import hydra_help

        print(hydra_help(), end="")
        return DONE
    return _run_task(line)


def _run_task(line: CommandLine) -> int:
    plugins = installed()
    name, rest = split_task(line.words, plugins.task_names())
    if not name:
        if line.overrides or line.flags:
            raise UserError("no task is named", remedy=nearest("", plugins.task_names()))
        from .help import overview

        print(overview(plugins), end="")
        return DONE
    task = plugins.task(name)
    if line.wants_help:
        from .help import task_help

        print(task_help(task, plugins, line.overrides), end="")
        return DONE
    if rest:
        line.overrides.insert(0, action_override(task, rest, TaskSchema(task, {}).types_of))
    if _is_light(task, line):
        return _run_light(task, plugins, line.overrides)
    from .app import run_app

    return run_app(task, plugins, line)


def _run_light(task: Task, plugins: Plugins, overrides: list[str]) -> int:
    """Run a task that only lists something, which needs neither Hydra nor the time it takes."""
    from .composition import Composition
    from .ending import conclude, run_composed

    config = task.config(json=True) if overrides else task.config()
    composition = Composition(task, config, {}, {}, {})
    outcome = conclude(task.name, lambda result: run_composed(composition, plugins, result, None))
    return outcome.exit_status


def _is_light(task: Task, line: CommandLine) -> bool:
    """Whether a task has nothing to compose: no method, no shared node, no setting given."""
    is_plain = not (task.leaves_folder or task.hooks or task.groups or line.flags)
    has_json = "json" in field_names(task.config)
    return is_plain and (not line.overrides or (has_json and line.overrides == ["json=true"]))


def _check_encoding(words: list[str]) -> None:
    """Refuse bytes that are no text, which the operating system hands on as half characters.

    Raises:
        UserError: naming the setting that holds them.
    """
    for word in words:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            key = word.partition("=")[0] if "=" in word else ""
            shown = word.encode("utf-8", "replace").decode()
            setting = key if key.isascii() else ""
            remedy = "write the text as UTF-8"
            raise UserError(f"{shown!r} is not UTF-8", setting=setting, remedy=remedy) from None


def _wants_traceback(words: list[str]) -> bool:
    return "debug=true" in (word.lower() for word in words)


@contextmanager
def _clean_end() -> Iterator[None]:
    """Write what any terminal can show, and let SIGTERM end a run as Ctrl-C does."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before: Any = None
    with suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        with suppress(ValueError, TypeError):
            signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
