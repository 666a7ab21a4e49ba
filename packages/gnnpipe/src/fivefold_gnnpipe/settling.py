"""Values of settings that were given in Python are made what the fields say, or refused by name.

The command line does this as it reads its words; `GNNPipeConfig(mode="stale")` comes here. Light.
"""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from fivefold import UserError, nearest

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def settle(config: Any, prefix: str) -> None:
    """Make each field of a dataclass of settings what its annotation says.

    Words become members of their enum, tuples lists, NumPy's numbers Python's.

    Args:
        config: the settings; they are changed.
        prefix: what stands before a field's name on the command line.

    Raises:
        UserError: a value of another kind, or a word that is none of the enum's.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        setting = f"{prefix}{field.name}"
        value = getattr(config, field.name)
        setattr(config, field.name, _settled(hints[field.name], value, setting))


def _settled(kind: Any, value: object, setting: str) -> object:
    if type(None) in get_args(kind):
        [kind] = [part for part in get_args(kind) if part is not type(None)]
        return None if value is None else _settled(kind, value, setting)
    if get_origin(kind) is list and isinstance(value, list | tuple):
        return [_settled(get_args(kind)[0], item, setting) for item in value]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if isinstance(value, str) and value in list(kind):
            return kind(value)
        remedy = nearest(str(value), [member.value for member in kind])
        raise UserError("no such value", setting=setting, value=value, remedy=remedy)
    if kind is bool or is_dataclass(kind) or get_origin(kind) is list:
        fits, whole = isinstance(value, get_origin(kind) or kind), value
    elif kind is str:
        fits = isinstance(value, str | os.PathLike)
        whole = os.fspath(value) if isinstance(value, os.PathLike) else value
    else:
        assert kind in (int, float)
        wanted = Integral if kind is int else Real
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        whole = kind(value) if fits else value
    if fits:
        return whole
    words = _WORDS.get(kind, f"a {kind.__name__}")
    raise UserError("this value does not fit", setting=setting, value=value, remedy=f"give {words}")
