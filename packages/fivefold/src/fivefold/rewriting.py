"""The user's overrides, checked against the task's dataclasses and written for Hydra's grammar.

What a field is decides how its value is read: text and paths are quoted as they stand, enums are
matched by value, a shared node takes an option or a free name, and the rest is Hydra's grammar.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .again import as_written
from .description import Group, Method, Task
from .errors import UserError, near_settings, nearest
from .literal import encode, quote
from .override import Override
from .plugins import Plugins
from .schema import (
    TaskSchema,
    enum_names,
    enum_of,
    is_list,
    is_optional,
    is_scalar,
    is_text,
    types_at,
)

_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_SWEEP = re.compile(r"\s*(choice|range|glob|interval|shuffle|sort|tag)\s*\(")
_WORD = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class Rewritten:
    """What Hydra is to read, and how to speak of it."""

    lines: list[str]
    """The overrides for Hydra, in the user's order."""
    written: dict[str, str]
    """Each of them, and what the user wrote for it."""
    schema: TaskSchema
    """What can be set, given the methods that were chosen."""

    @property
    def words(self) -> list[str]:
        """The overrides as the user wrote them, in order."""
        return as_written(self.lines, self.written)


@dataclass(frozen=True)
class Rewriter:
    """Turns a task's overrides into what Hydra is to read."""

    task: Task
    plugins: Plugins
    is_sweep: bool
    group_options: Callable[[str], list[str]]
    """The options of a group, those of YAML files included; none when there is no such group."""
    composed_choices: Callable[[list[str]], dict[str, str]]
    """The choices of groups that overrides such as `+experiment=NAME` lead to."""

    def rewrite(self, lines: Iterable[str]) -> Rewritten:
        """Return the overrides for Hydra.

        Raises:
            UserError: for a key, option or method that does not exist.
        """
        overrides = [Override.read(line) for line in lines]
        schema = TaskSchema(self.task, self._chosen(overrides))
        pairs = [(line, o.line) for o in overrides for line in self._one(o, schema)]
        return Rewritten([line for line, _ in pairs], dict(pairs), schema)

    def _chosen(self, overrides: list[Override]) -> dict[str, list[Method]]:
        """Return the methods that each hook may be set to: the last choice, all of a sweep."""
        names = {hook: [default] for hook, default in self.task.hooks.items()}
        for override in overrides:
            if self._is_composition(override):
                self._add_composed(override, names)
        for override in overrides:
            if override.key in names:
                names[override.key] = self._method_names(override)
        return {
            hook: [self.plugins.method(self.task, hook, name) for name in chosen]
            for hook, chosen in names.items()
        }

    def _is_composition(self, override: Override) -> bool:
        """Whether an override composes files rather than sets a value: `+experiment=NAME`."""
        key = override.key
        if key.startswith(("hydra/", "hydra.")) or key in self.task.hooks:
            return False
        if "/" in key or "@" in key:
            return True
        is_addition = override.sign.startswith("+") and "." not in key
        return is_addition and not TaskSchema(self.task, {}).types_of(key)

    def _add_composed(self, override: Override, names: dict[str, list[str]]) -> None:
        """Note the methods that a composition chooses; in a sweep, those of each of its files."""
        if not self.group_options(override.key.partition("@")[0]):
            raise self._unknown(override, TaskSchema(self.task, {hook: [] for hook in names}))
        for value in override.sweeps_over():
            composed = self.composed_choices([f"{override.sign}{override.key}={value}"])
            for hook, default in self.task.hooks.items():
                chosen = composed.get(hook, default)
                if chosen != default and chosen not in names[hook]:
                    names[hook] = [chosen, *(n for n in names[hook] if n != default)]

    def _method_names(self, override: Override) -> list[str]:
        """Return the methods that `drafting=…` names, several in a sweep only.

        Raises:
            UserError: when a method is taken away, or several are named without `-m`.
        """
        if override.sign == "~":
            raise UserError(
                f"{override.key} always has a method",
                remedy=nearest("none", self.plugins.methods(self.task, override.key)),
            )
        every = list(self.plugins.methods(self.task, override.key))
        if self.is_sweep and _SWEEP.match(override.value):
            named = set(_WORD.findall(override.value))
            return [name for name in every if name in named] or every
        names = override.sweeps_over()
        if len(names) > 1 and not self.is_sweep:
            raise _needs_sweep(override)
        return names

    def _one(self, override: Override, schema: TaskSchema) -> list[str]:
        if override.key.startswith(("hydra.", "hydra/")):
            return [_folder(override)]
        if self._is_composition(override) or override.key in self.task.hooks:
            return [override.line]
        if override.key in schema.groups:
            return self._group(override, schema.groups[override.key])
        types = schema.types_of(override.key)
        if not types:
            raise self._unknown(override, schema)
        self._check_suits_every_method(override, schema)
        sign = override.sign or ("++" if schema.is_in_dict(override.key) else "")
        return [f"{sign}{override.key}={self._value(override, types)}"]

    def _group(self, override: Override, group: Group) -> list[str]:
        """Return `model=OPTION` as it is, and `model=X` as the setting that X is."""
        options = self.group_options(group.node)
        named = override.sweeps_over() if self.is_sweep else [override.value]
        if all(name in options for name in named):
            return [override.line]
        if self.is_sweep and _SWEEP.match(override.value):
            return [override.line]
        if group.free is None:
            wrong = next(name for name in named if name not in options)
            remedy = nearest(wrong, options)
            raise UserError("no such option", setting=group.node, value=wrong, remedy=remedy)
        dropped = [f"~{group.node}"] if group.default is not None else []
        return [*dropped, f"{group.node}.{group.free}={encode(override.value)}"]

    def _unknown(self, override: Override, schema: TaskSchema) -> UserError:
        """Return the error for a key that cannot be set: the nearest, or where it belongs."""
        problem, remedy = "no such setting", schema.remedy(override.key)
        owners = self._owners(override.key)
        if not override.sign and self.group_options(override.key):
            remedy = f"to compose a file, write +{override.line}"
        elif owners:
            remedy = f"it is a setting of {' and '.join(owners)}"
        elif self._is_composition(override) and not near_settings(override.key, schema.keys()):
            folder = f"conf/{override.key.partition('@')[0]}"
            problem = f"there is no folder {folder} here"
            remedy = f"run it in the root folder of a checkout, or where {folder}/NAME.yaml is"
        return UserError(problem, setting=override.key, value=override.value, remedy=remedy)

    def _owners(self, key: str) -> list[str]:
        """Return the choices of methods, `drafting=bold`, that would have this key."""
        hook, _, rest = key.partition(".")
        if hook not in self.task.hooks or not rest:
            return []
        offered = self.plugins.methods(self.task, hook)
        return [f"{hook}={name}" for name, m in offered.items() if types_at(m.config, rest)]

    def _check_suits_every_method(self, override: Override, schema: TaskSchema) -> None:
        """Refuse a setting that only some of the methods of a sweep have."""
        hook, _, rest = override.key.partition(".")
        for method in schema.methods.get(hook, []):
            if not types_at(method.config, rest):
                raise UserError(
                    f"{hook}={method.name} has no such setting",
                    setting=override.key,
                    value=override.value,
                    remedy="sweep over the methods that have it",
                )

    def _value(self, override: Override, types: list[Any]) -> str:
        if all(is_text(annotation) for annotation in types):
            return encode(override.value)
        if not self.is_sweep:
            _check_is_one_value(override, types[0])
        enum = enum_of(types[0])
        return override.value if enum is None else _enum_names(override, enum, types[0])


def _check_is_one_value(override: Override, annotation: Any) -> None:
    if is_list(annotation):
        if not override.value.startswith("["):
            raise UserError(
                "a list is written in brackets",
                setting=override.key,
                value=override.value,
                remedy=f"write {override.key}=[{override.value}]",
            )
    elif is_scalar(annotation) and "," in override.value:
        raise _needs_sweep(override)


def _enum_names(override: Override, enum: type[Enum], annotation: Any) -> str:
    """Return the value with each member's value replaced by the name that OmegaConf wants."""
    names = enum_names(enum)
    if is_optional(annotation):
        names["null"] = "null"
    words = _WORD.findall(override.value) or [override.value]
    unknown = [word for word in words if word not in names]
    if unknown and not _SWEEP.match(override.value):
        remedy = nearest(unknown[0], [str(member.value) for member in enum])
        raise UserError("no such value", setting=override.key, value=unknown[0], remedy=remedy)
    return _WORD.sub(lambda found: names.get(found[0], found[0]), override.value)


def _folder(override: Override) -> str:
    """Return a run folder quoted for Hydra, so that commas and spaces are part of its name."""
    value = override.value
    if override.key not in _FOLDERS or value[:1] in ("'", '"'):
        return override.line
    return f"{override.sign}{override.key}={quote(value)}"


def _needs_sweep(override: Override) -> UserError:
    return UserError(
        "one run takes one value",
        setting=override.key,
        value=override.value,
        remedy="add -m to run each in turn",
    )
