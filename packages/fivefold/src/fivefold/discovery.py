"""Plugins found and loaded one at a time, so that none can take another down.

pluggy checks signatures and names; the isolation is ours: one `PluginManager` a plugin, each
entry point loaded and each hook called on its own, and a status kept of what happened.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from types import ModuleType
from typing import Any

import pluggy

from . import hooks
from .description import Method, Task
from .errors import near, one_line
from .plugins import BLOCK_VARIABLE, Plugins, PluginStatus, normal_name
from .problems import problem_of_method, problem_of_task
from .version import __version__


@cache
def installed() -> Plugins:
    """Return the plugins of this environment, loaded once a process."""
    return load_plugins()


def load_plugins(path: list[str] | None = None) -> Plugins:
    """Find and load every plugin, the host's own tasks first.

    Args:
        path: folders to look in for wheels; `sys.path` when not given.
    """
    blocked = frozenset(normal_name(word) for word in _block_words())
    statuses = [_host()]
    with redirect_stdout(sys.stderr):  # what an import prints is not what the user asked for
        for dist, entry in _entry_points(path):
            if isinstance(entry, str):
                statuses.append(_status(dist, name=_dist_name(dist), error=entry))
            else:
                statuses.append(_load(dist, entry, blocked))
    return Plugins(statuses)


def _host() -> PluginStatus:
    from . import builtin

    status = PluginStatus("host", hooks.PROJECT, __version__, builtin.__name__)
    _describe(status, builtin)
    return status


def _entry_points(path: list[str] | None) -> Iterator[tuple[Distribution, EntryPoint | str]]:
    """Yield each wheel's entry points of our group, or why they cannot be read.

    The text is searched before it is parsed: most wheels have nothing for us, and reading all
    their names would take longer than the rest of the start.
    """
    seen = set()
    for dist in distributions() if path is None else distributions(path=path):
        try:
            text = dist.read_text("entry_points.txt") or ""
        except (OSError, UnicodeDecodeError):  # not readable, so not ours to report
            continue
        if not re.search(rf"^\s*\[\s*{hooks.PROJECT}\s*\]", text, re.MULTILINE):
            continue
        name = normal_name(_dist_name(dist))
        if name in seen:
            continue
        seen.add(name)
        try:
            entries = [entry for entry in dist.entry_points if entry.group == hooks.PROJECT]
        except Exception as error:  # a wheel's metadata is whatever its author wrote
            yield dist, f"its entry points cannot be read: {_said(error)}"
            continue
        for entry in entries:
            yield dist, entry


def _load(dist: Distribution, entry: EntryPoint, blocked: frozenset[str]) -> PluginStatus:
    status = _status(dist, name=entry.name)
    if status.normal_names & blocked:
        return replace(status, is_blocked=True, error=f"blocked by {BLOCK_VARIABLE}")
    try:
        unmet = _unmet_requirement(dist)
        if unmet:
            return replace(status, error=unmet)
        module = entry.load()
    except (Exception, SystemExit) as error:  # whatever a third party's import may do
        return replace(status, error=f"import of {entry.value} failed: {_said(error)}")
    status.module = entry.module
    try:
        _describe(status, module)
    except (Exception, SystemExit) as error:  # an object that does not even let itself be looked at
        status.add_error(f"its description cannot be read: {_said(error)}")
    return status


class _Manager(pluggy.PluginManager):
    """A manager that does not load what a module only exports lazily (PEP 562)."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the marks of a plugin's function, if it has any."""
        if isinstance(plugin, ModuleType) and name not in vars(plugin):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def _describe(status: PluginStatus, module: Any) -> None:
    """Register with a manager of its own, check the hooks' names, call each hook on its own."""
    manager = _Manager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(module, name=status.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        status.add_error(_hook_error(error))
    for hook in hooks.HOOKS:
        for method in _call(status, manager, f"fivefold_{hook}"):
            if _is_usable(status, method, Method, problem_of_method):
                status.methods.append((hook, method))
    for task in _call(status, manager, "fivefold_tasks"):
        if _is_usable(status, task, Task, problem_of_task):
            status.tasks.append(task)
    if not (status.error or status.methods or status.tasks):
        status.add_error("it offers nothing; is a hook function not marked with @hookimpl?")


def _call(status: PluginStatus, manager: pluggy.PluginManager, hook: str) -> list[Any]:
    try:
        return [item for offered in getattr(manager.hook, hook)() for item in offered]
    except (Exception, SystemExit) as error:  # one raising hook leaves the others usable
        status.add_error(f"{hook} failed: {_said(error)}")
        return []


def _is_usable(
    status: PluginStatus, item: object, kind: type, problem_of: Callable[[Any], str]
) -> bool:
    if not isinstance(item, kind):
        status.add_error(f"a hook returned a {type(item).__name__}, not a {kind.__name__}")
        return False
    problem = problem_of(item)
    if problem:
        name = getattr(item, "name", "")
        status.add_error(one_line(problem), name if isinstance(name, str) else "")
    return not problem


def _unmet_requirement(dist: Distribution) -> str:
    """Return the requirement on the host that this host does not meet, as a sentence."""
    from packaging.requirements import InvalidRequirement, Requirement

    for line in dist.requires or []:
        if not line.lower().startswith(hooks.PROJECT):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            return f"its requirement {line!r} cannot be read: {_said(error)}"
        if normal_name(requirement.name) != hooks.PROJECT:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            return f"requires {requirement}, this is fivefold {__version__}"
    return ""


def _hook_error(error: pluggy.PluginValidationError) -> str:
    message = _said(error)
    unknown = re.search(r"unknown hook '(\w+)'", message)
    if unknown:
        names = [f"fivefold_{hook}" for hook in (*hooks.HOOKS, "tasks")]
        close = near(unknown[1], names)
        guess = f", did you mean {close[0]}?" if close else f" (there are {', '.join(names)})"
        return f"no such hook {unknown[1]!r}{guess}"
    return message


def _status(dist: Distribution, *, name: str, error: str = "") -> PluginStatus:
    try:
        version = dist.version
    except Exception:  # metadata without a version is still a plugin to report
        version = "?"
    return PluginStatus(name, _dist_name(dist), version, error=error)


def _dist_name(dist: Distribution) -> str:
    try:
        return dist.name or "?"
    except Exception:  # a folder that only looks like metadata
        return "?"


def _block_words() -> list[str]:
    return re.findall(r"[^\s,]+", os.environ.get(BLOCK_VARIABLE, ""))


def _said(error: BaseException) -> str:
    """Return an exception on one line, its class first when it says little by itself."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
