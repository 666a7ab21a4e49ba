"""`fivefold --help` and `fivefold TASK --help`, read from descriptions and docstrings alone."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, is_dataclass, replace
from typing import Any

from .description import Group, Method, Task
from .errors import UserError, shown
from .override import Override
from .plugins import Plugins
from .schema import DEBUG, Setting, settings_of

_INDENT = " " * 6
_MOST_COLUMNS = 100

_ON = """
  fivefold TASK --help              every setting of a task, of its methods and shared nodes
  fivefold TASK key=value …         text is taken as it is; lists are [a,b]
  fivefold TASK drafting=NAME       choose a method; `fivefold plugins` lists them
  fivefold TASK --cfg job           show what was composed, without a run
  fivefold -m TASK key=a,b          run once for each value (Hydra's sweeps and launchers)
  fivefold TASK +experiment=NAME    compose a file from conf/experiment/
  eval "$(fivefold -sc install=bash)"  complete words with Tab
  fivefold --hydra-help             Hydra's own flags
  fivefold --version
"""


def overview(plugins: Plugins) -> str:
    """Return `fivefold --help`: what can be run, and how to go on."""
    tasks = plugins.tasks()
    width = max((len(task.name) for task in tasks), default=0)
    lines = ["usage: fivefold TASK [key=value …]", "", "Tasks:"]
    lines += [f"  {task.name:<{width}}  {task.summary}" for task in tasks]
    unusable = [s for s in plugins.statuses if s.state not in ("ok", "blocked")]
    text = "\n".join(lines) + "\n\nHow to go on:" + _ON
    if unusable or plugins.clashes():
        text += "\nSomething installed cannot be used: see `fivefold plugins`.\n"
    return text


def task_help(task: Task, plugins: Plugins, overrides: Iterable[str] = ()) -> str:
    """Return `fivefold TASK --help`.

    Args:
        task: the task.
        plugins: what is installed.
        overrides: what else stands on the command line: it chooses whose settings are shown.
    """
    chosen = _chosen(task, plugins, overrides)
    parts = [f"usage: fivefold {task.name} [key=value …]", _paragraph(_about(task)), "Settings:"]
    parts.append(_settings(settings_of(task.config)) or "  none")
    for hook, default in task.hooks.items():
        parts.append(_hook(hook, default, plugins.methods(task, hook), chosen[hook]))
    parts += [_group(group) for group in task.groups]
    parts += ["Always:", _settings([DEBUG, *_folder(task)])]
    return "\n\n".join(parts).replace(":\n\n ", ":\n ") + "\n"


def hydra_help() -> str:
    """Return what Hydra says of its own flags."""
    from hydra._internal.utils import get_args_parser

    hidden = {"--help", "--version", "--hydra-help", "--config-path", "--config-name"}
    hidden.add("--experimental-rerun")
    lines = ["Hydra's flags:"]
    for action in get_args_parser()._actions:
        if action.option_strings and not hidden & set(action.option_strings):
            name = ", ".join(action.option_strings)
            about = " ".join(str(action.help).split()[:14])
            lines.append(f"  {name}\n{_INDENT}{about}")
    return "\n".join(lines) + "\n"


def _chosen(task: Task, plugins: Plugins, overrides: Iterable[str]) -> dict[str, Method | None]:
    names = dict(task.hooks)
    for override in map(Override.read, overrides):
        if override.key in names:
            names[override.key] = override.value
    chosen: dict[str, Method | None] = {}
    for hook, name in names.items():
        try:
            chosen[hook] = plugins.method(task, hook, name)
        except UserError:
            if name != task.hooks[hook]:
                raise
            chosen[hook] = None
    return chosen


def _hook(hook: str, default: str, offered: Mapping[str, Method], chosen: Method | None) -> str:
    lines = [f"{hook}=METHOD (default {default}):"]
    width = max((len(name) for name in offered), default=0)
    lines += [f"  {name:<{width}}  {method.summary}" for name, method in offered.items()]
    if chosen is None:
        lines.append(f"  {default} cannot be used here: see `fivefold plugins`")
    else:
        settings = _settings(settings_of(chosen.config, f"{hook}."))
        lines += ["", f" Settings of {chosen.name}:", settings] if settings else []
    return "\n".join(lines)


def _group(group: Group) -> str:
    values = dict(group.options.get(group.default or "", {}))
    title = f"{group.node}:"
    if group.options or group.free:
        names = [*sorted(group.options), *([group.free.upper()] if group.free else [])]
        default = f" (default {group.default})" if group.default else ""
        title = f"{group.node}={'|'.join(names)}{default}:"
    settings = []
    for setting in settings_of(group.config, f"{group.node}."):
        name = setting.key.removeprefix(f"{group.node}.")
        default_value = values.get(name, setting.default)
        settings.append(replace(setting, default=default_value))
    return f"{title}\n{_settings(settings) or '  nothing to set'}"


def _folder(task: Task) -> list[Setting]:
    if not task.leaves_folder:
        return []
    doc = "The run folder: configuration, log and result.json."
    return [Setting("hydra.run.dir", str, f"outputs/{task.name.replace(' ', '_')}/TIME", doc)]


def _settings(settings: Iterable[Setting]) -> str:
    lines = []
    for setting in settings:
        lines.append(f"  {setting.key}={_default(setting.default)}  <{setting.type_name}>")
        lines += _wrapped(setting.doc)
    return "\n".join(lines)


def _default(value: Any) -> str:
    if value is MISSING or value == "???":
        return "(must be given)"
    if is_dataclass(value):
        return "{…}"
    return shown(value)


def _about(task: Task) -> str:
    doc = task.config.__doc__ or ""
    is_generated = doc.startswith(f"{task.config.__name__}(")
    return task.summary if is_generated or not doc else " ".join(doc.split())


def _wrapped(text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    return textwrap.wrap(text, width, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, min(shutil.get_terminal_size().columns, _MOST_COLUMNS))
