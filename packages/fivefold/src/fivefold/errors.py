"""What a user can cause, said in one line.

Exception
└── UserError    the user's to mend: problem, setting, remedy; exit status 2
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from .secret import LEFT_OUT, is_secret

_SHOWN_CHARACTERS = 80
_SHOWN_CHOICES = 16
_PLAIN_ITEM = re.compile(r"[\w.+\-/%*@?|]+( [\w.+\-/%*@?|]+)*", re.ASCII)
"""Text that stands in a list without quotes."""
_BESIDE, _ELSEWHERE = 0.6, 0.8
"""How much alike a misspelt setting and its suggestion are, in the same node and in another."""
_UNSET = object()


class UserError(Exception):
    """A problem that the user can mend, printed as one line and never as a traceback.

    The line reads `fivefold: <problem> (<setting>=<value>); <remedy>`. The host fills in the value
    from the composed configuration when it is not given here.
    """

    def __init__(
        self, problem: str, *, setting: str = "", remedy: str = "", value: object = _UNSET
    ) -> None:
        """Say what is wrong, where it was set, and what to do about it.

        Args:
            problem: what is wrong, in the user's words, without a full stop.
            setting: the dotted key that causes it (`drafting.nodes`); a method's own check may
                name its field alone, the host puts the node before it.
            remedy: what to do; `nearest` makes one from the valid names.
            value: the setting's value; leave it out to let the host look it up.
        """
        super().__init__(problem)
        self.problem = problem
        self.setting = setting
        self.remedy = remedy
        self._value = value

    @property
    def has_value(self) -> bool:
        """Whether the value of the setting is known."""
        return self._value is not _UNSET

    def located(self, setting: str, value: object = _UNSET) -> "UserError":
        """Return the same error with its setting spelt out and, if given, its value."""
        kept = self._value if value is _UNSET else value
        error = UserError(self.problem, setting=setting, remedy=self.remedy, value=kept)
        error.__cause__ = self.__cause__
        return error.with_traceback(self.__traceback__)

    def describe(self) -> dict[str, str]:
        """Return what `result.json` holds under `error`."""
        return {"problem": self.problem, "setting": self.setting, "remedy": self.remedy}

    def __str__(self) -> str:
        """Return the line, without the `fivefold: ` that the host puts before it."""
        place = self.setting
        if place and self.has_value:
            place = f"{place}={self._shipped()}"
        line = f"{self.problem} ({place})" if place else self.problem
        return one_line(f"{line}; {self.remedy}" if self.remedy else line)

    def __reduce__(self) -> tuple[object, ...]:
        """Let a launcher bring the error back from another process."""
        return _rebuild, (self.problem, self.setting, self.remedy, self.has_value, self._shipped())

    def _shipped(self) -> object:
        """Return the value as it is shown, which survives the way to another process."""
        if not self.has_value:
            return None
        return LEFT_OUT if is_secret(self.setting) and self._value else shown(self._value)


def _rebuild(problem: str, setting: str, remedy: str, has_value: bool, value: object) -> UserError:
    if has_value:
        return UserError(problem, setting=setting, remedy=remedy, value=value)
    return UserError(problem, setting=setting, remedy=remedy)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a remedy that names the valid choices nearest to a word.

    `did you mean chain? (chain, expansion, none)` when one is near, else
    `choose one of chain, expansion, none`. A long list is left out, or cut.
    """
    names = sorted(set(choices))
    if not names:
        return "there is nothing to choose from"
    close = near(word, names)
    is_long = len(names) > _SHOWN_CHOICES
    listed = ", ".join(names[:_SHOWN_CHOICES]) + (", …" if is_long else "")
    if not close:
        return f"choose one of {listed}" if len(names) > 1 else f"the only choice is {listed}"
    guess = f"did you mean {' or '.join(close)}?"
    return guess if is_long or set(close) == set(names) else f"{guess} ({listed})"


def near(word: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that look like a word, the likeliest first.

    The last part of a dotted name counts as much as the whole: `nodes` is near `drafting.nodes`.
    """
    spelt: dict[str, str] = {}
    for name in names:
        spelt.setdefault(name.lower(), name)
        spelt.setdefault(name.lower().rpartition(".")[2], name)
    found = difflib.get_close_matches(word.lower(), spelt, n=3, cutoff=0.6)
    last = word.lower().rpartition(".")[2]
    found += difflib.get_close_matches(last, spelt, n=2, cutoff=0.75)
    return list(dict.fromkeys(spelt[name] for name in found))[:3]


def near_settings(key: str, keys: Iterable[str]) -> list[str]:
    """Return up to three settings that look like a dotted key, those beside it first.

    One in another node must be really close in its last part: `temprature` is near
    `sampling.temperature`, `input` is not near `sampling.min_p`.
    """
    node, _, name = key.lower().rpartition(".")
    found = []
    for candidate in dict.fromkeys(keys):
        place, _, last = candidate.lower().rpartition(".")
        likeness = difflib.SequenceMatcher(None, name, last).ratio()
        if likeness >= (_BESIDE if place == node else _ELSEWHERE):
            found.append((place != node, -likeness, candidate))
    return [candidate for _, _, candidate in sorted(found)][:3]


def shown(value: object) -> str:
    """Return a value as it would be written on the command line, short and on one line.

    A long one is cut in the middle: a path is known by its end.
    """
    text = _written(value)
    if len(text) > _SHOWN_CHARACTERS:
        head = _SHOWN_CHARACTERS // 2 - 1
        text = f"{text[:head]}…{text[head + 1 - _SHOWN_CHARACTERS :]}"
    return one_line(text)


def one_line(text: str) -> str:
    """Return text without line breaks or other characters that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_item(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_item, value)) + "]"
    return str(value)


def _item(value: object) -> str:
    """Return what stands within brackets, where not every text can go without quotes."""
    text = _written(value)
    if not isinstance(value, str) or isinstance(value, Enum) or _PLAIN_ITEM.fullmatch(text):
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """Return text as an item of a list has it in double quotes."""
    doubled = re.sub(r'(\\+)(?="|\Z)', r"\1\1", text)
    return '"' + doubled.replace('"', '\\"') + '"'
