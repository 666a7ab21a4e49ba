"""The words of the shell, sorted before Hydra sees them: task, flags, overrides.

The task is the first word that is neither a flag nor holds `=`, wherever it stands; it may be two
words (`train plan`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .description import Task
from .errors import UserError, nearest
from .schema import enum_of

_VALUED = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd")
_PLAIN = ("--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc")
_HYDRA_HELP = ("--hydra-help",)
_INFO = ("--info", "-i")
_INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_CFG_TYPES = ("all", "hydra", "job")
_REFUSED = ("--config-name", "-cn", "--config-path", "-cp", "--experimental-rerun")
_OWN = ("--help", "-h", "--version", "--json")
FLAGS = (*_VALUED, *_INFO, *_PLAIN, *_HYDRA_HELP, *_OWN)
"""Every flag that is understood."""
FLAG_VALUES = {
    **dict.fromkeys(("--cfg", "-c"), _CFG_TYPES),
    **dict.fromkeys(_INFO, _INFO_TOPICS),
}
"""What may follow the flags that take one of a few words."""


@dataclass
class CommandLine:
    """What stands on the command line, in order within each kind."""

    words: list[str] = field(default_factory=list)
    """What is neither a flag nor an override: the task, one or two words."""
    overrides: list[str] = field(default_factory=list)
    """`key=value`, and `~key`."""
    flags: list[str] = field(default_factory=list)
    """Hydra's flags with their values."""
    wants_help: bool = False
    """Whether `--help` was given."""
    wants_version: bool = False
    """Whether `--version` was given."""

    def has(self, *flags: str) -> bool:
        """Whether one of Hydra's flags was given."""
        return any(flag in self.flags for flag in flags)

    @property
    def is_sweep(self) -> bool:
        """Whether `-m` was given."""
        return self.has("-m", "--multirun")

    @property
    def wants_traceback(self) -> bool:
        """Whether `debug=true` was given, known before anything is composed."""
        return any(o.lstrip("+").lower() == "debug=true" for o in self.overrides)


def read_command_line(arguments: Iterable[str]) -> CommandLine:
    """Sort the shell's words.

    Raises:
        UserError: for a flag that does not exist, lacks its value or has no meaning here.
    """
    line = CommandLine()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            kept = line.overrides if "=" in word or word.startswith("~") else line.words
            kept.append(word)
        elif word in ("--help", "-h"):
            line.wants_help = True
        elif word == "--version":
            line.wants_version = True
        elif word == "--json":
            line.overrides.append("json=true")
        else:
            line.flags += _read_flag(word, rest)
    return line


def _read_flag(word: str, rest: list[str]) -> list[str]:
    """Return one flag and its value, taken from what follows."""
    flag, equals, value = word.partition("=")
    if flag in _REFUSED:
        problem = f"{flag} has no use here: the task is the primary configuration"
        raise UserError(problem, remedy="name a task, and use +experiment=NAME to compose")
    if flag in _VALUED:
        if equals:
            return [flag, value]
        if not rest:
            raise UserError(f"{flag} needs a value", remedy="see `fivefold --hydra-help`")
        return [flag, rest.pop(0)]
    if flag in _INFO:
        if equals:
            return [flag, value]
        if rest and rest[0] in _INFO_TOPICS:
            return [flag, rest.pop(0)]
        return [flag, "all"]
    if word in (*_PLAIN, *_HYDRA_HELP):
        return [word]
    raise UserError(f"no such flag {word!r}", remedy=nearest(word, FLAGS))


def split_task(words: list[str], names: Iterable[str]) -> tuple[str, list[str]]:
    """Return the task's name and the words that remain: two words before one."""
    known = set(names)
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in known:
            return name, words[count:]
    return (words[0], words[1:]) if words else ("", [])


def action_words(fields: Callable[[str], list[object]]) -> list[str]:
    """Return the words that may follow a task whose settings hold an enum named `action`."""
    enums = filter(None, map(enum_of, fields("action")))
    return [str(member.value) for enum in enums for member in enum]


def action_override(task: Task, words: list[str], fields: Callable[[str], list[object]]) -> str:
    """Return the override that a word after the task stands for: `cache clear`.

    A task whose settings hold an enum named `action` takes its value as a word.

    Raises:
        UserError: when the words mean nothing to this task.
    """
    actions = action_words(fields)
    if len(words) == 1 and actions:
        if words[0] in actions:
            return f"action={words[0]}"
        problem = f"fivefold {task.name} cannot {words[0]!r}"
        raise UserError(problem, remedy=nearest(words[0], actions))
    problem = f"{' '.join(words)!r} is neither a setting nor a flag of `fivefold {task.name}`"
    raise UserError(problem, remedy=f"write key=value; see `fivefold {task.name} --help`")
