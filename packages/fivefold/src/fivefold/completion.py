"""Tab completion: tasks, flags and settings by ourselves, groups and files by Hydra.

Hydra is not to see the task's word, and of a list or a dictionary it offers what cannot be typed.
"""

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
from .schema import Setting, TaskSchema, field_names
from .shim import (
    FLAG_VALUES,
    FLAGS,
    CommandLine,
    action_words,
    read_command_line,
    split_task,
)

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
    known = {task.name: task for task in plugins.tasks()}
    line, flag = _read(before)
    name, rest = split_task(line.words, plugins.task_names())
    task = known.get(name)
    values = [value for value in FLAG_VALUES.get(flag, ()) if value.startswith(word)]
    if values:
        return values
    if word.startswith("-"):
        return _flags(word, task)
    found = [] if rest else _next_words(name, word, known)
    if task is not None:
        found += _settings(task, plugins, line, word)
    return sorted(set(found))


def _split(typed: str) -> tuple[list[str], str]:
    """Return the finished words after the command's name, and the one being typed."""
    try:
        words = shlex.split(typed)
    except ValueError:  # an open quote
        words = typed.split()
    is_new = typed[-1:].isspace() or len(words) < 2
    return (words[1:], "") if is_new else (words[1:-1], words[-1])


def _read(before: list[str]) -> tuple[CommandLine, str]:
    """Return the finished words, sorted, and the flag that waits for its value, if one does."""
    flag = before[-1] if before and before[-1] in FLAG_VALUES else ""
    try:
        return read_command_line(before[:-1] if flag else before), flag
    except UserError:
        words = [word for word in before if "=" not in word and not word.startswith("-")]
        return CommandLine(words=words), flag


def _flags(word: str, task: Task | None) -> list[str]:
    """Return the long flags that begin like this and have a use here."""
    has_use = {
        "--shell-completion": task is None,
        "--multirun": task is None or task.leaves_folder,
        "--json": task is not None and "json" in field_names(task.config),
    }
    found = [flag for flag in FLAGS if flag.startswith("--") and has_use.get(flag, True)]
    return sorted(flag for flag in found if flag.startswith(word))


def _next_words(name: str, word: str, known: dict[str, Task]) -> list[str]:
    """Return first words, or what may follow a task: its actions, the rest of a longer name."""
    if "=" in word or word.startswith(("+", "~")):
        return []
    if not name:
        words = [task.partition(" ")[0] for task in known]
    else:
        words = [task.partition(" ")[2] for task in known if task.startswith(f"{name} ")]
        words += action_words(TaskSchema(known[name], {}).types_of) if name in known else []
    return [found for found in words if found.startswith(word)]


def _settings(task: Task, plugins: Plugins, line: CommandLine, word: str) -> list[str]:
    """Return the keys or values that the task's settings allow, and what Hydra knows besides."""
    with composing(task, plugins) as composer:
        chosen = [o for o in line.overrides if _is_choice(o, task, plugins)]
        settings = _known_settings(composer, chosen)
        key, equals, value = word.partition("=")
        values = settings[key].values if equals and key in settings else []
        if values:
            return [f"{key}={found}" for found in values if found.startswith(value)]
        found = _by_hydra(composer, chosen, word)
        if equals:
            return found
        nodes = [g.node for g in task.groups if g.free or composer.group_options(g.node)]
        keys = [key for key in (*settings, *task.hooks, *nodes) if key.startswith(word)]
        return [*(_next_part(key, word) for key in keys), *_usable_keys(found, task)]


def _usable_keys(found: list[str], task: Task) -> list[str]:
    """Return those of Hydra's keys that are not ours to know and can be typed on.

    Its own settings, a composition (`+experiment=`), the entries of a dictionary.
    """
    ours = {f"+{node}=" for node in (*task.hooks, *(group.node for group in task.groups))}
    return [
        item
        for item in found
        if item.startswith(("hydra.", "hydra/"))
        or (item.startswith("+") and item.endswith(("=", "/")) and item not in ours)
        or ("." in item and item.endswith("="))
    ]


def _next_part(key: str, word: str) -> str:
    """Return a word continued to the next dot of a key, or to its `=`."""
    part, dot, _ = key[len(word) :].partition(".")
    return f"{word}{part}{dot or '='}"


def _is_choice(line: str, task: Task, plugins: Plugins) -> bool:
    """Whether an override decides which settings there are; text is left out, quotes and all."""
    override = Override.read(line)
    if override.key in task.hooks:
        return override.value in plugins.methods(task, override.key)
    return override.sign == "+" and "." not in override.key


def _known_settings(composer: Composer, chosen: list[str]) -> dict[str, Setting]:
    try:
        schema = composer.rewrite(chosen, is_sweep=False).schema
    except UserError:
        return {}
    return {setting.key: setting for setting in schema.settings()}


def _by_hydra(composer: Composer, chosen: list[str], word: str) -> list[str]:
    shells: Any = composer.hydra.get_shell_to_plugin_map(composer.hydra.config_loader)
    line = " ".join([*chosen, word])
    try:
        found: list[str] = shells["bash"][0]._query(composer.config_name, line)
    except (Exception, SystemExit):  # a word that is no override yet completes to nothing
        return []
    return [item for item in found if not item.startswith(("fivefold_", "defaults"))]
