"""Tab completion: tasks by ourselves, the rest by Hydra, which is not to see the task's word."""

import os
import shlex
from typing import Any

from .composing import Composer, composing
from .description import Task
from .discovery import installed
from .ending import DONE
from .errors import UserError, nearest
from .override import Override
from .plugins import Plugins
from .schema import TaskSchema, enum_of
from .shim import CommandLine, read_command_line, split_task

_COMMANDS = ("install", "uninstall", "query")


def complete(line: CommandLine) -> int:
    """Run `fivefold -sc install=bash` and what the shell asks afterwards; return 0.

    Raises:
        UserError: for an unknown command or shell.
    """
    asked = [Override.read(override) for override in line.overrides]
    if len(asked) != 1 or asked[0].key not in _COMMANDS:
        raise UserError(
            "completion takes one command", remedy="write -sc install=bash (or zsh, or fish)"
        )
    command, shell = asked[0].key, asked[0].value
    plugins = installed()
    if command == "query":
        words = suggestions(os.environ.get("COMP_LINE", ""), plugins)
        print("\n".join(words) if shell == "fish" else " ".join(words))
        return DONE
    with composing(plugins.task("plugins"), plugins) as composer:
        shells = composer.hydra.get_shell_to_plugin_map(composer.hydra.config_loader)
        if shell not in shells:
            remedy = nearest(shell, shells)
            raise UserError("no such shell", setting=f"-sc {command}", value=shell, remedy=remedy)
        getattr(shells[shell][0], command)()
    return DONE


def suggestions(typed: str, plugins: Plugins) -> list[str]:
    """Return the words that the last word typed may become.

    Args:
        typed: the line up to the cursor, the command's name first.
        plugins: what is installed.
    """
    before, word = _split(typed)
    try:
        line = read_command_line(before)
    except UserError:
        line = CommandLine(words=[w for w in before if "=" not in w and not w.startswith("-")])
    name, rest = split_task(line.words, plugins.task_names())
    known = {task.name: task for task in plugins.tasks()}
    found = _next_words(name if not rest else "", word, known)
    if name in known:
        found += _settings(known[name], plugins, line, word)
    return sorted(set(found))


def _split(typed: str) -> tuple[list[str], str]:
    """Return the finished words after the command's name, and the one being typed."""
    try:
        words = shlex.split(typed)
    except ValueError:  # an open quote
        words = typed.split()
    is_new = typed[-1:].isspace() or len(words) < 2
    return (words[1:], "") if is_new else (words[1:-1], words[-1])


def _next_words(name: str, word: str, known: dict[str, Task]) -> list[str]:
    """Return the words of tasks: first words, or the second of a task that begins like this."""
    if "=" in word or word.startswith(("-", "+", "~")):
        return []
    if not name:
        firsts = {task.partition(" ")[0] for task in known}
        return [first for first in firsts if first.startswith(word)]
    seconds = [task.partition(" ")[2] for task in known if task.startswith(f"{name} ")]
    return [second for second in seconds if second.startswith(word)]


def _settings(task: Task, plugins: Plugins, line: CommandLine, word: str) -> list[str]:
    """Return what Hydra completes, and the members of enums, which it does not."""
    with composing(task, plugins) as composer:
        chosen = [o for o in line.overrides if _is_choice(o, task, plugins)]
        found = _by_hydra(composer, chosen, word)
        key, equals, value = word.partition("=")
        if equals:
            found += [f"{key}={v}" for v in _members(composer, chosen, key) if v.startswith(value)]
    return found


def _is_choice(line: str, task: Task, plugins: Plugins) -> bool:
    """Whether an override decides which settings there are; text is left out, quotes and all."""
    override = Override.read(line)
    if override.key in task.hooks:
        return override.value in plugins.methods(task, override.key)
    return override.sign == "+" and "." not in override.key


def _members(composer: Composer, chosen: list[str], key: str) -> list[str]:
    try:
        schema: TaskSchema = composer.rewrite(chosen, is_sweep=False).schema
    except UserError:
        return []
    types = schema.types_of(key)
    enum = enum_of(types[0]) if types else None
    if enum is not None:
        return [str(member.value) for member in enum]
    return ["true", "false"] if types == [bool] else []


def _by_hydra(composer: Composer, chosen: list[str], word: str) -> list[str]:
    shells: Any = composer.hydra.get_shell_to_plugin_map(composer.hydra.config_loader)
    line = " ".join([*chosen, word])
    try:
        found: list[str] = shells["bash"][0]._query(composer.config_name, line)
    except (Exception, SystemExit):  # a word that is no override yet completes to nothing
        return []
    return [item for item in found if not item.startswith(("fivefold_", "defaults"))]
