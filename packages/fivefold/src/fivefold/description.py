"""What a plugin says about what it brings: methods, tasks and the settings that tasks share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .errors import UserError


@dataclass(frozen=True)
class Method:
    """One way to do what a hook is for; `drafting=sequoia` chooses it."""

    name: str
    """The option's name: lower case letters, digits and `_`."""
    config: type
    """Plain dataclass whose fields are the method's settings; light to import."""
    build: str
    """`package.module:function`, imported when the method is chosen."""
    summary: str
    """One line for `fivefold plugins`."""
    reference: str = ""
    """Paper and section."""
    provides: frozenset[str] = frozenset()
    """Words that say what it makes, known before torch is loaded."""
    needs: frozenset[str] = frozenset()
    """Words it needs of the model, cache, rule or task. The host itself checks `task:…` only: a
    method with such words is offered to the tasks that provide one of them."""


@dataclass(frozen=True)
class Group:
    """A node of settings that tasks share: `model`, `sampling`, `cache`, `runtime`, `data`."""

    node: str
    """Where the settings sit: `model.name`."""
    config: type
    """Plain dataclass whose fields are the settings."""
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Option name to field values: `model=smollm2`."""
    default: str | None = None
    """The option taken when nothing is said; without one, the dataclass's own defaults."""
    free: str | None = None
    """The field that `node=X` sets when X is no option: a hub id, a folder, a file."""


@dataclass(frozen=True)
class Task:
    """Something a user can run: `fivefold generate`."""

    name: str
    """One or two words."""
    config: type
    """Plain dataclass whose fields are the task's own settings, at the root."""
    run: str
    """`package.module:function`, imported when the task is chosen: `function(config, run)`
    returns an exit status or nothing."""
    summary: str
    """One line for `fivefold --help`."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """The hooks it lets the user choose of, each with its default method."""
    groups: tuple[Group, ...] = ()
    """Shared nodes."""
    provides: frozenset[str] = frozenset()
    """What it gives to methods: `task:generate`."""
    check: str = ""
    """Optional `package.module:function(config, run)`, light, called before the task is imported:
    refuses what cannot go together."""
    leaves_folder: bool = True
    """Whether a run leaves a folder with `result.json`; a task that only lists something does
    not."""


def load(reference: str, *, setting: str = "") -> Callable[..., Any]:
    """Import the function that a description names.

    Args:
        reference: `package.module:function`.
        setting: what the user chose, named when the import fails.

    Raises:
        UserError: when the module cannot be imported, as when a library it needs is missing.
    """
    module, _, function = reference.partition(":")
    try:
        loaded: Callable[..., Any] = getattr(import_module(module), function)
    except ImportError as error:
        raise UserError(
            f"{module} cannot be imported: {error}",
            setting=setting,
            remedy="install what is missing, or see `fivefold plugins`",
        ) from error
    return loaded
