"""What can be wrong with a description, said before anything of it is used.

A description is whatever a third party wrote: the types of its fields are checked first, because
the host sorts names, compares words and reads settings wherever it lists or chooses something.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from . import hooks
from .description import Group, Method, Task
from .schema import field_names, problem_of_config

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TASK_NAME = re.compile(r"[a-z][a-z0-9_]*( [a-z][a-z0-9_]*)?")
_REFERENCE = re.compile(r"[\w.]+:\w+")
_RESERVED = frozenset({"debug", "defaults", "experiment", "hydra"})


def problem_of_method(method: Method) -> str:
    """Return what is wrong with a method's description, empty when nothing is."""
    what = f"method {method.name!r}"
    mistyped = _mistyped(method)
    if mistyped:
        return f"{what}: {mistyped}"
    if not _NAME.fullmatch(method.name):
        return f"{what}: a name is lower case letters, digits and _"
    if not _REFERENCE.fullmatch(method.build):
        return f"{what}: build {method.build!r} is not 'package.module:function'"
    problem = problem_of_config(method.config)
    return f"{what}: {problem}" if problem else ""


def problem_of_task(task: Task) -> str:
    """Return what is wrong with a task's description, empty when nothing is."""
    what = f"task {task.name!r}"
    mistyped = _mistyped(task) or next(filter(None, map(_problem_of_group, task.groups)), "")
    if mistyped:
        return f"{what}: {mistyped}"
    if not _TASK_NAME.fullmatch(task.name):
        return f"{what}: a name is one or two words of lower case letters, digits and _"
    for key, reference in (("run", task.run), ("check", task.check or task.run)):
        if not _REFERENCE.fullmatch(reference):
            return f"{what}: {key} {reference!r} is not 'package.module:function'"
    unknown = sorted(set(task.hooks) - set(hooks.HOOKS))
    if unknown:
        return f"{what}: no such hook {unknown[0]!r}"
    configs = [task.config, *(group.config for group in task.groups)]
    problem = next(filter(None, map(problem_of_config, configs)), "")
    if problem:
        return f"{what}: {problem}"
    nodes = [*task.hooks, *(group.node for group in task.groups), *field_names(task.config)]
    taken = sorted(name for name in set(nodes) if name in _RESERVED or nodes.count(name) > 1)
    return f"{what}: {taken[0]!r} names two things" if taken else ""


# ------------------------------------------------------------------------- the types of its fields


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_words(value: object) -> bool:
    return isinstance(value, frozenset | set) and all(map(_is_text, value))


def _is_names(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, (*value, *value.values())))


def _is_groups(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, Group) for item in value)


def _is_options(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(_is_text(name) and isinstance(item, Mapping) for name, item in value.items())


_WANTED: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "text"),
    "node": (_is_text, "text"),
    "build": (_is_text, "text, 'package.module:function'"),
    "run": (_is_text, "text, 'package.module:function'"),
    "check": (_is_text, "text, 'package.module:function'"),
    "summary": (_is_text, "text"),
    "reference": (_is_text, "text"),
    "provides": (_is_words, "a set of words, frozenset({'word'})"),
    "needs": (_is_words, "a set of words, frozenset({'word'})"),
    "hooks": (_is_names, "a dictionary, hook to default method"),
    "groups": (_is_groups, "a tuple of Group"),
    "options": (_is_options, "a dictionary, option to field values"),
    "default": (lambda value: value is None or _is_text(value), "text or None"),
    "free": (lambda value: value is None or _is_text(value), "text or None"),
}
"""What each field of a description must hold, and how to say so; `config` is looked at apart."""


def _mistyped(description: Any) -> str:
    """Return which field of a description holds something of another kind."""
    for field in fields(description):
        is_right, wanted = _WANTED.get(field.name, (None, ""))
        value = getattr(description, field.name)
        if is_right and not is_right(value):
            return f"{field.name} must be {wanted}, not {value!r}"
    return ""


def _problem_of_group(group: Group) -> str:
    problem = _mistyped(group)
    if not problem and not _NAME.fullmatch(group.node):
        problem = "a name is lower case letters, digits and _"
    return f"group {group.node!r}: {problem}" if problem else ""
