"""The settings of a task, read from its dataclasses: keys, types, defaults, docstrings.

This needs neither Hydra nor OmegaConf: help, the choice of what is literal text and the search
for the nearest key all happen before Hydra parses anything.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser.attrdoc import AttributeDocstrings

from .description import Group, Method, Task
from .errors import near_settings

_UNIONS = (Union, types.UnionType)
_CONTAINERS = (list, dict, tuple)
_SCALARS = (str, bytes, int, bool, float, Path, type(None))
_ALTERNATIVES = "only numbers, text and Enums can be alternatives"


@dataclass(frozen=True)
class Setting:
    """One key that can be set."""

    key: str
    """Dotted, as on the command line."""
    type: Any
    """The field's annotation."""
    default: object
    """The value when nothing is said; `dataclasses.MISSING` when one must be given."""
    doc: str
    """The docstring under the field, on one line."""
    choices: tuple[str, ...] = ()
    """The words that the field's metadata lists under `choices`: all that text may be."""

    @property
    def type_name(self) -> str:
        """The type in the words of `--help`."""
        return "|".join(self.choices) or type_name(self.type)

    @property
    def values(self) -> list[str]:
        """What can stand after `=`, as far as it is known; of a list, how it begins or is written.

        Nothing for a number, for text without choices.
        """
        enum = enum_of(self.type)
        words = list(self.choices) or [str(member.value) for member in enum or ()]
        if is_list(self.type):
            return [f"[{word}]" for word in words] or ["["]
        return ["true", "false"] if _bare(self.type) is bool else words


DEBUG = Setting("debug", bool, False, "Show errors with their traceback.")
"""What every task has."""


def settings_of(config: type, prefix: str = "") -> list[Setting]:
    """Return a dataclass's settings, nested dataclasses flattened into dotted keys."""
    found = []
    hints, docs = get_type_hints(config), field_docs(config)
    for field in _settable(config):
        key, annotation = f"{prefix}{field.name}", hints[field.name]
        nested = _bare(annotation)
        if is_dataclass(nested) and isinstance(nested, type):
            found += settings_of(nested, f"{key}.")
        else:
            doc = docs.get(field.name, "")
            found.append(Setting(key, annotation, _default(field), doc, _choices(field)))
    return found


def field_names(config: type) -> list[str]:
    """Return the names of a dataclass's own settings."""
    return [field.name for field in _settable(config)]


def field_docs(config: type) -> dict[str, str]:
    """Return the docstring under each field, base classes included, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if is_dataclass(base):
            docs.update(_own_field_docs(base))
    return docs


def _own_field_docs(config: type) -> dict[str, str]:
    try:
        found = AttributeDocstrings().get_attr_docs(config)
    except (TypeError, SyntaxError):  # a class that has no source to read
        return {}
    return {name: " ".join(doc.split()) for name, (doc, _, _) in found.items()}


class TaskSchema:
    """What can be set for one task, given the methods that may be chosen."""

    def __init__(self, task: Task, methods: Mapping[str, list[Method]]) -> None:
        """Describe a task's tree.

        Args:
            task: the task.
            methods: for each of the task's hooks, the methods whose settings count: the chosen
                one, several in a sweep.
        """
        self.task = task
        self.methods = methods
        self.groups: dict[str, Group] = {group.node: group for group in task.groups}

    def types_of(self, key: str) -> list[Any]:
        """Return the annotations that a dotted key may have; none when there is no such key."""
        first, _, rest = key.partition(".")
        if "" in key.split("."):
            return []
        if first in self.groups:
            return types_at(self.groups[first].config, rest)
        if first in self.methods:
            found = [types_at(method.config, rest) for method in self.methods[first]]
            return [annotation for annotations in found for annotation in annotations]
        if key == DEBUG.key:
            return [DEBUG.type]
        return types_at(self.task.config, key)

    def is_in_dict(self, key: str) -> bool:
        """Whether a key is an entry of a dictionary, which need not be there to be set."""
        parents = self.types_of(key.rpartition(".")[0])
        return any(_bare(parent) is dict or get_origin(_bare(parent)) is dict for parent in parents)

    def settings(self) -> list[Setting]:
        """Return every setting: the task's own, the methods', the shared nodes', `debug`."""
        found = settings_of(self.task.config)
        for hook, methods in self.methods.items():
            for method in methods:
                found += settings_of(method.config, f"{hook}.")
        for group in self.task.groups:
            found += settings_of(group.config, f"{group.node}.")
        return [*found, DEBUG]

    def keys(self) -> list[str]:
        """Return every key that can stand before `=`."""
        keys = [setting.key for setting in self.settings()]
        return [*dict.fromkeys(keys), *self.methods, *self.groups]

    def remedy(self, key: str) -> str:
        """Return what to do about a key that cannot be set: take the nearest, or see the help."""
        close = near_settings(key, self.keys())
        if close:
            return f"did you mean {' or '.join(close)}?"
        return f"see `fivefold {self.task.name} --help`"


def types_at(config: type, path: str) -> list[Any]:
    """Return the annotation at the end of a dotted path from a dataclass, if there is one."""
    if not path:
        return [config]
    annotation: Any = config
    for part in path.split("."):
        inner = _bare(annotation)
        if is_dataclass(inner) and isinstance(inner, type):
            hints = get_type_hints(inner)
            if part not in {field.name for field in _settable(inner)}:
                return []
            annotation = hints[part]
        elif get_origin(inner) in (list, dict) and get_args(inner):
            annotation = get_args(inner)[-1]
        elif inner in (list, dict, Any):
            return [Any]
        else:
            return []
    return [annotation]


def is_text(annotation: Any) -> bool:
    """Whether a field holds text or a path, so that the shell's words reach it as they are."""
    return _bare(annotation) in (str, Path)


def is_list(annotation: Any) -> bool:
    """Whether a field holds a list."""
    inner = _bare(annotation)
    return inner is list or get_origin(inner) is list


def is_list_of_text(annotation: Any) -> bool:
    """Whether a field holds a list of text or of paths."""
    return is_list(annotation) and any(map(is_text, get_args(_bare(annotation))))


def is_optional(annotation: Any) -> bool:
    """Whether a field may be null."""
    return type(None) in get_args(annotation)


def is_scalar(annotation: Any) -> bool:
    """Whether a field holds one number, truth value or enum member."""
    inner = _bare(annotation)
    return inner in (int, float, bool) or (isinstance(inner, type) and issubclass(inner, Enum))


def enum_of(annotation: Any) -> type[Enum] | None:
    """Return the enum that a field, or each item of a list, is chosen from."""
    inner = _bare(annotation)
    if get_origin(inner) is list:
        inner = _bare(get_args(inner)[0])
    return inner if isinstance(inner, type) and issubclass(inner, Enum) else None


def enum_names(enum: type[Enum]) -> dict[str, str]:
    """Return the words that may stand for an enum's members, with the name that OmegaConf wants.

    A member goes by its value, its name, or its name in lower case.
    """
    members = enum.__members__
    names = {name.lower(): name for name in members}
    names.update({str(member.value): name for name, member in members.items()})
    names.update({name: name for name in members})
    return names


def type_name(annotation: Any) -> str:
    """Return a field's type in the words of `--help`."""
    inner = _bare(annotation)
    enum = enum_of(inner)
    if is_list(inner):
        items = get_args(inner)
        return f"[{type_name(items[0])},…]" if items else "[…]"
    if enum is not None:
        return "|".join(str(member.value) for member in enum)
    names = {str: "text", Path: "path", int: "whole number", float: "number", bool: "true|false"}
    if inner in names:
        return names[inner]
    if get_origin(inner) in _UNIONS:
        return " or ".join(type_name(part) for part in get_args(inner))
    return getattr(inner, "__name__", str(inner))


def how_to_give(key: str, annotation: Any) -> str:
    """Return the remedy for a value that does not fit: its type, or the settings below the key."""
    inner = _bare(annotation)
    if is_dataclass(inner) and isinstance(inner, type):
        return "set what is below it: " + ", ".join(s.key for s in settings_of(inner, f"{key}."))
    return f"give a {type_name(annotation)}"


def problem_of_config(config: object, holders: tuple[object, ...] = ()) -> str:
    """Return why a class cannot be a configuration, empty when it can.

    Args:
        config: what is described as one.
        holders: the dataclasses that it is a field of.
    """
    if not isinstance(config, type) or not is_dataclass(config):
        return f"its config {getattr(config, '__name__', config)!r} is not a dataclass"
    name = config.__name__
    if getattr(config, "__dataclass_params__").frozen:  # noqa: B009 - not in the stubs
        return f"{name} is frozen, and Hydra could not override it"
    if config in holders:
        return f"{name} holds itself"
    try:
        hints = get_type_hints(config)
    except Exception as error:  # a forward reference to what is not imported at run time
        return f"the types of {name} cannot be read: {error}"
    for item in fields(config):
        problem = _problem_of_type(hints[item.name], (*holders, config))
        problem = problem or _problem_of_choices(item.metadata.get("choices", ()))
        if problem:
            return f"{name}.{item.name}: {problem}"
    return ""


def _problem_of_type(annotation: Any, holders: tuple[object, ...]) -> str:
    """Return why a field of this type could not be composed, empty when it could.

    These are the types that OmegaConf knows, told without the time that importing it takes.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "Literal is not supported, use an Enum"
    if set in (annotation, origin) or frozenset in (annotation, origin):
        return "sets are not supported, use a list"
    if is_dataclass(annotation):
        return problem_of_config(annotation, holders)
    if origin in _UNIONS and len(set(inner) - {type(None)}) > 1:
        return "" if all(_is_scalar_type(part) for part in inner) else _ALTERNATIVES
    if origin is dict and inner[0] is not Any and not _is_scalar_type(inner[0]):
        return f"a dictionary's key cannot be {type_name(inner[0])}, use text"
    if origin in (*_UNIONS, *_CONTAINERS):
        parts = [part for part in inner if part not in (Ellipsis, type(None))]
        return next(filter(None, (_problem_of_type(part, holders) for part in parts)), "")
    if annotation in (Any, *_CONTAINERS) or _is_scalar_type(annotation):
        return ""
    return f"{type_name(annotation)} is not supported, use a number, text, an Enum or a dataclass"


def _problem_of_choices(choices: object) -> str:
    is_words = isinstance(choices, list | tuple) and all(isinstance(word, str) for word in choices)
    return "" if is_words else f"choices must be a list of text, not {choices!r}"


def _is_scalar_type(annotation: Any) -> bool:
    """Whether an annotation is a type of plain values, or null."""
    return annotation in _SCALARS or (isinstance(annotation, type) and issubclass(annotation, Enum))


def _bare(annotation: Any) -> Any:
    """Return an annotation without `| None`."""
    if get_origin(annotation) in _UNIONS:
        kept = [part for part in get_args(annotation) if part is not type(None)]
        if len(kept) == 1:
            return kept[0]
    return annotation


def _settable(config: type) -> list[Field[Any]]:
    return [field for field in fields(config) if field.init]


def _choices(field: Field[Any]) -> tuple[str, ...]:
    return tuple(field.metadata.get("choices", ()))


def _default(field: Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING
