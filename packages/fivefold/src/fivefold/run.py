"""What a task is given to read its configuration and to report what it did."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from .description import Method, Task, load
from .errors import UserError, one_line
from .files import open_text, write_atomically
from .tables import table_text

if TYPE_CHECKING:
    from .composition import Composition
    from .plugins import Plugins
    from .result import Result

T = TypeVar("T")
_log = logging.getLogger("fivefold")


@dataclass(frozen=True)
class Choice:
    """A method with its settings, ready to be built."""

    hook: str
    """The hook it was chosen for."""
    method: Method
    """What its plugin says of it."""
    settings: Any
    """Its settings, checked."""

    def build(self, *args: Any) -> Any:
        """Import the method's builder and call it with its settings and these arguments."""
        setting = f"{self.hook}={self.method.name}"
        return load(self.method.build, setting=setting)(self.settings, *args)


class Run:
    """One run of a task: its configuration, its output, its record.

    What the user asked for goes to stdout (`stream`, `print`, `table`), what happened to stderr
    and the log (`note`), and what scripts read to `result.json` (`row`, `figure`).
    """

    def __init__(
        self,
        composition: "Composition",
        plugins: "Plugins",
        result: "Result",
        folder: Path | None = None,
    ) -> None:
        """Made by the host; tests use `fivefold.testing.compose`.

        Args:
            composition: what was composed for the task.
            plugins: what is installed.
            result: the record that becomes `result.json`.
            folder: the run folder, for a task that leaves one.
        """
        self.composition = composition
        self.result = result
        self._plugins = plugins
        self._folder = folder

    # ----------------------------------------------------------------------- configuration

    @property
    def task(self) -> Task:
        """The task that runs."""
        return self.composition.task

    @property
    def config(self) -> Any:
        """The task's own settings, as the task function is given them."""
        return self.composition.config

    @property
    def folder(self) -> Path:
        """The run folder, absolute; it exists."""
        if self._folder is None:
            raise RuntimeError("this run leaves no folder")
        return self._folder

    @property
    def debug(self) -> bool:
        """Whether the user asked for tracebacks."""
        return self.composition.debug

    @property
    def stdout_is_tty(self) -> bool:
        """Whether somebody watches stdout."""
        return sys.stdout.isatty()

    def node(self, name: str, kind: type[T]) -> T:
        """Return a shared node, as the dataclass it is."""
        found = self.composition.nodes[name]
        assert isinstance(found, kind), f"{name} is a {type(found).__name__}"
        return found

    def method(self, hook: str) -> Method:
        """Return the chosen method of a hook."""
        return self.composition.methods[hook]

    def settings(self, hook: str) -> Any:
        """Return the chosen method's settings."""
        return self.composition.settings[hook]

    def chosen(self, hook: str) -> Choice:
        """Return the chosen method of a hook with its settings."""
        return Choice(hook, self.method(hook), self.settings(hook))

    def build(self, hook: str, *args: Any) -> Any:
        """Import the chosen method's builder and call it: `build(settings, *args)`."""
        return self.chosen(hook).build(*args)

    def choose(self, hook: str, name: str, values: Mapping[str, object] | None = None) -> Choice:
        """Return another method of a hook, with settings of its own.

        Args:
            hook: the hook.
            name: the method.
            values: settings by key; the others keep their defaults.

        Raises:
            UserError: for an unknown method or key, or a value that the method refuses.
        """
        from .composing import validated

        method = self._plugins.method(self.task, hook, name)
        return Choice(hook, method, validated(method.config, values or {}, hook))

    def methods(self, hook: str) -> list[Method]:
        """Return the methods that can be chosen for a hook of this task, by name."""
        return list(self._plugins.methods(self.task, hook).values())

    # ------------------------------------------------------------------------------ output

    def stream(self, text: str) -> None:
        """Write text to stdout at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def print(self, text: str = "") -> None:
        """Write a line to stdout."""
        self.stream(f"{text}\n")

    def note(self, text: str) -> None:
        """Tell people what happens: on stderr and in the log, never on stdout."""
        _log.info("%s", text)
        print(text, file=sys.stderr, flush=True)

    def table(
        self,
        title: str,
        rows: Sequence[Mapping[str, object]],
        columns: Sequence[str] | None = None,
    ) -> None:
        """Write a table to stdout; its rows are recorded with `row`.

        Args:
            title: the table's heading.
            rows: one mapping a line; a column that a row lacks is left blank.
            columns: which columns, in which order; all when not given.
        """
        self.stream(table_text(title, rows, columns, is_terminal=self.stdout_is_tty))

    def open_output(self, path: str | Path, setting: str = "output") -> IO[str]:
        """Open a file that the user asked for; each line is on disk as soon as it is written.

        Raises:
            UserError: naming the setting, when the file cannot be written.
        """
        return open_text(Path(path), setting)

    def write_text(self, path: str | Path, text: str, setting: str = "output") -> None:
        """Write a whole file that the user asked for: all of it or nothing.

        Raises:
            UserError: naming the setting, when the file cannot be written.
        """
        write_atomically(Path(path), text, setting)

    # ------------------------------------------------------------------------------ record

    def row(self, **values: object) -> None:
        """Record one line of `rows` in `result.json`; it stays if the run is interrupted."""
        self.result.rows.append(values)

    def figure(self, name: str, value: float | None) -> None:
        """Record a number under `figures` in `result.json`."""
        self.result.figures[name] = value

    def environment(self, **values: object) -> None:
        """Add to `environment` in `result.json`."""
        self.result.environment.update(values)

    def fail(self, error: UserError) -> None:
        """Report a problem with a part of the work and go on with the rest.

        The line is printed now; the run ends as `partial`, with exit status 2.
        """
        located = self.composition.located(error)
        self.result.partial_error = self.result.partial_error or located
        self.note(one_line(f"fivefold: {located}"))
