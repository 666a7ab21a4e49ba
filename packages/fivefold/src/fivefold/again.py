"""The command line that composes the same again, for people to read and to copy."""

import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from .description import Task
from .override import Override
from .secret import LEFT_OUT, is_secret


def as_written(lines: Iterable[str], written: Mapping[str, str]) -> list[str]:
    """Return overrides as the user wrote them.

    Args:
        lines: as Hydra has them; those of one job of a sweep.
        written: what the user wrote for each; a value that a sweep made stays as Hydra has it.
    """
    return [word for word, _ in groupby(_as_written(line, written) for line in lines)]


def _as_written(line: str, written: Mapping[str, str]) -> str:
    given = line.removesuffix("=null") if line.startswith("~") else line  # added by a sweep
    return written.get(given, line)


def same_again(task: Task, choices: Mapping[str, Any], words: Iterable[str]) -> str:
    """Return a command line: the task, every option that was chosen for it, what was set.

    Where the results go is left out, and access tokens.

    Args:
        task: the task.
        choices: the option of each hook and shared node.
        words: the user's overrides.
    """
    given = [Override.read(word) for word in words]
    given = [override for override in given if not override.key.startswith(("hydra.", "hydra/"))]
    named = {override.key for override in given}
    nodes = (*task.hooks, *(group.node for group in task.groups))
    chosen = [f"{node}={choices[node]}" for node in nodes if choices.get(node)]
    unnamed = [word for word in chosen if Override.read(word).key not in named]
    return " ".join(["fivefold", task.name, *unnamed, *map(_shell_word, given)])


def _shell_word(override: Override) -> str:
    """Return an override as a word of the shell, on one line whatever its text holds."""
    line = override.line
    if is_secret(override.key) and override.value:
        line = f"{override.sign}{override.key}={LEFT_OUT}"
    if line.isprintable():
        return shlex.quote(line)
    escaped = re.sub(r"['\\]", r"\\\g<0>", line).replace("\n", r"\n")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"
