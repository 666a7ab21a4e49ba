"""`fivefold plugins`: a table of what is installed, and what went wrong with it."""

import json
from typing import Any

from .builtin import PluginsConfig
from .discovery import installed
from .plugins import BLOCK_VARIABLE, Plugins, PluginStatus
from .run import Run
from .version import __version__


def run(config: PluginsConfig, run: Run) -> None:
    """Run `fivefold plugins`."""
    plugins = installed()
    run.stream(as_json(plugins) if config.json else as_text(plugins, is_terminal=run.stdout_is_tty))


def as_json(plugins: Plugins) -> str:
    """Return everything about the installed plugins as JSON.

    Keys: `fivefold` (the host's version), `plugins` (one record an entry point: name,
    distribution, version, state, error, methods, tasks) and `clashes` (a sentence a name that two
    plugins give).
    """
    records = [_record(status) for status in plugins.statuses]
    whole = {"fivefold": __version__, "plugins": records, "clashes": plugins.clashes()}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def as_text(plugins: Plugins, *, is_terminal: bool) -> str:
    """Return the table for people, and below it a line for each problem."""
    from .tables import table_text

    methods: list[dict[str, object]] = [
        {
            "hook": hook,
            "method": method.name,
            "summary": method.summary,
            "reference": method.reference,
            "wheel": status.wheel,
        }
        for status in plugins.statuses
        for hook, method in status.methods
    ]
    wheels: list[dict[str, object]] = [
        {
            "plugin": status.name,
            "wheel": status.wheel,
            "state": status.state,
            "methods": len(status.methods),
            "tasks": ", ".join(task.name for task in status.tasks) or None,
        }
        for status in plugins.statuses
    ]
    parts = [table_text("Plugins", wheels, is_terminal=is_terminal)]
    if methods:
        parts.append(table_text("Methods", methods, is_terminal=is_terminal))
    problems = [f"{s.state}: {s.name} ({s.wheel}): {s.error}" for s in plugins.statuses if s.error]
    clashes = plugins.clashes()
    problems += [f"offered twice: {clash}" for clash in clashes]
    if problems:
        parts.append("\n".join(problems) + "\n")
    if clashes:
        parts.append(f"Block one wheel of a pair: {BLOCK_VARIABLE}=WHEEL in the environment.\n")
    return "\n".join(parts)


def _record(status: PluginStatus) -> dict[str, Any]:
    methods = [
        {
            "hook": hook,
            "name": method.name,
            "summary": method.summary,
            "reference": method.reference,
            "provides": sorted(method.provides),
            "needs": sorted(method.needs),
        }
        for hook, method in status.methods
    ]
    return {
        "name": status.name,
        "distribution": status.distribution,
        "version": status.version,
        "state": status.state,
        "error": status.error or None,
        "methods": methods,
        "tasks": [{"name": task.name, "summary": task.summary} for task in status.tasks],
    }
