"""What is installed: what each plugin offers, what can be chosen, and why the rest cannot."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from . import hooks
from .description import Method, Task
from .errors import UserError, nearest

BLOCK_VARIABLE = "FIVEFOLD_BLOCK"
"""Names wheels (or plugins) that are not to be loaded, separated by commas."""


@dataclass
class PluginStatus:
    """What became of one entry point."""

    name: str
    """The entry point's name."""
    distribution: str
    """The wheel it came with."""
    version: str
    """The wheel's version."""
    module: str = ""
    """The light module that describes it."""
    tasks: list[Task] = field(default_factory=list)
    """The tasks it offers."""
    methods: list[tuple[str, Method]] = field(default_factory=list)
    """The methods it offers, each with its hook."""
    error: str = ""
    """Why it, or a part of it, cannot be used; empty when all is well."""
    unusable: dict[str, str] = field(default_factory=dict)
    """What it describes and cannot be used, by name, with the reason."""
    is_blocked: bool = False
    """Whether `FIVEFOLD_BLOCK` names it."""

    @property
    def state(self) -> str:
        """`ok`, `partly` (some of what it offers is unusable), `broken` or `blocked`."""
        if self.is_blocked:
            return "blocked"
        if not self.error:
            return "ok"
        return "partly" if self.tasks or self.methods else "broken"

    @property
    def wheel(self) -> str:
        """The wheel with its version, as errors name it."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def normal_names(self) -> frozenset[str]:
        """What `FIVEFOLD_BLOCK` may call it: the entry point's name, the wheel's."""
        return frozenset({normal_name(self.name), normal_name(self.distribution)})

    def add_error(self, error: str, name: str = "") -> None:
        """Note one more thing that is wrong with it, or with the method or task of this name."""
        self.error = f"{self.error}; {error}" if self.error else error
        if name:
            self.unusable[name] = error


@dataclass(frozen=True)
class Offer:
    """A method together with the plugin that offers it."""

    method: Method
    plugin: PluginStatus


class Plugins:
    """Everything that is installed: what can be chosen, and why the rest cannot."""

    def __init__(self, statuses: Sequence[PluginStatus]) -> None:
        """Keep the statuses of loaded plugins.

        Args:
            statuses: one an entry point, in the order in which they were found.
        """
        self.statuses = list(statuses)

    def tasks(self) -> list[Task]:
        """Return every task that one plugin alone offers, by name."""
        offers = self._task_offers()
        return [offers[name][0][0] for name in sorted(offers) if len(offers[name]) == 1]

    def task_names(self) -> list[str]:
        """Return the name of every task that is offered, be it by two plugins."""
        return sorted(self._task_offers())

    def task(self, name: str) -> Task:
        """Return a task by name.

        Raises:
            UserError: when no plugin offers it, or two do.
        """
        offers = self._task_offers()
        found = offers.get(name, [])
        if not found:
            problem = f"there is no task {name!r}"
            raise UserError(problem, remedy=self._remedy(name, offers))
        if len(found) > 1:
            raise _ambiguous(f"the task {name!r}", [plugin for _, plugin in found])
        return found[0][0]

    def offers(self, task: Task, hook: str) -> dict[str, list[Offer]]:
        """Return the methods of a hook that suit a task, by name; two of one name clash."""
        offers: dict[str, list[Offer]] = {}
        for offer in self._methods(hook):
            if suits(offer.method, task):
                offers.setdefault(offer.method.name, []).append(offer)
        return dict(sorted(offers.items()))

    def methods(self, task: Task, hook: str) -> dict[str, Method]:
        """Return the methods that can be chosen: those whose name is one plugin's alone."""
        found = self.offers(task, hook)
        return {name: offers[0].method for name, offers in found.items() if len(offers) == 1}

    def method(self, task: Task, hook: str, name: str) -> Method:
        """Return a method of a hook by name, as the user chose it.

        Raises:
            UserError: when the task is offered no such method, or two wheels bring it.
        """
        offers = self.offers(task, hook)
        found = offers.get(name, [])
        if len(found) == 1:
            return found[0].method
        if found:
            problem = f"the {hook} method {name!r}"
            raise _ambiguous(problem, [offer.plugin for offer in found], setting=hook, value=name)
        raise self._no_such_method(task, hook, name, list(offers))

    def withdraw(self, hook: str, method: Method, reason: str) -> None:
        """Offer a method no longer, since its settings cannot be composed."""
        for status in self.statuses:
            if (hook, method) in status.methods:
                status.methods.remove((hook, method))
                status.add_error(f"method {method.name!r}: {reason}", method.name)

    def clashes(self) -> list[str]:
        """Return a sentence for each name that two plugins give to the same task."""
        said = []
        for name, found in self._task_offers().items():
            if len(found) > 1:
                said.append(f"task {name}: {_wheels([plugin for _, plugin in found])}")
        for hook in hooks.HOOKS:
            offers = {
                name: found
                for task in self.tasks()
                for name, found in self.offers(task, hook).items()
                if len(found) > 1
            }
            said += [
                f"{hook}={name}: {_wheels([offer.plugin for offer in found])}"
                for name, found in offers.items()
            ]
        return said

    def conf_packages(self) -> list[str]:
        """Return the import packages of loaded plugins that carry compositions in `conf/`."""
        tops = (status.module.partition(".")[0] for status in self.statuses if status.module)
        return [f"{top}.conf" for top in dict.fromkeys(tops) if _has_conf(top)]

    def _task_offers(self) -> dict[str, list[tuple[Task, PluginStatus]]]:
        offers: dict[str, list[tuple[Task, PluginStatus]]] = {}
        for status in self.statuses:
            for task in status.tasks:
                offers.setdefault(task.name, []).append((task, status))
        return offers

    def _methods(self, hook: str) -> Iterator[Offer]:
        for status in self.statuses:
            for offered, method in status.methods:
                if offered == hook:
                    yield Offer(method, status)

    def _no_such_method(self, task: Task, hook: str, name: str, choices: list[str]) -> UserError:
        broken = self._broken_namesakes(name)
        if broken:
            reason = broken[0].unusable.get(name, broken[0].error)
            problem = f"{name!r} cannot be used: {broken[0].wheel}: {reason}"
            mend = "mend, upgrade or remove that wheel"
            if broken[0].is_blocked:
                mend = f"take it out of {BLOCK_VARIABLE}"
            remedy = f"{mend}; {nearest(name, choices)}"
            return UserError(problem, setting=hook, value=name, remedy=remedy)
        elsewhere = [offer for offer in self._methods(hook) if offer.method.name == name]
        if elsewhere:
            needs = ", ".join(sorted(_task_words(elsewhere[0].method)))
            problem = f"the {hook} method {name!r} is for {needs}, not for `fivefold {task.name}`"
            return UserError(problem, setting=hook, value=name, remedy=nearest(name, choices))
        remedy = self._remedy(name, choices)
        return UserError(f"no such {hook} method", setting=hook, value=name, remedy=remedy)

    def _remedy(self, name: str, choices: Iterable[str]) -> str:
        return "; ".join(filter(None, (nearest(name, choices), self._absent(name))))

    def _absent(self, name: str) -> str:
        """Return which wheels did not load or are blocked, and so may be what brings a name."""
        absent = self._broken_namesakes(name) or self._unusable()
        broken = _wheels([status for status in absent if not status.is_blocked])
        blocked = _wheels([status for status in absent if status.is_blocked])
        said = [f"did not load: {broken}"] if broken else []
        said += [f"blocked by {BLOCK_VARIABLE}: {blocked}"] if blocked else []
        return f"{', '.join(said)} (see `fivefold plugins`)" if said else ""

    def _unusable(self) -> list[PluginStatus]:
        return [status for status in self.statuses if status.state in ("broken", "blocked")]

    def _broken_namesakes(self, name: str) -> list[PluginStatus]:
        """Return the plugins that would bring this name, as far as their own names tell."""
        said = [status for status in self.statuses if name in status.unusable]
        names = {normal_name(name), normal_name(f"{hooks.PROJECT}-{name}")}
        return said or [s for s in self._unusable() if names & s.normal_names]


def suits(method: Method, task: Task) -> bool:
    """Whether a method is offered to a task: one of its `task:…` words, if any, is provided."""
    words = _task_words(method)
    return not words or bool(words & task.provides)


def _task_words(method: Method) -> frozenset[str]:
    return frozenset(str(word) for word in method.needs if str(word).startswith("task:"))


def _wheels(plugins: Iterable[PluginStatus]) -> str:
    return " and ".join(dict.fromkeys(plugin.wheel for plugin in plugins))


def _ambiguous(
    what: str, plugins: list[PluginStatus], *, setting: str = "", value: object = None
) -> UserError:
    example = plugins[-1].distribution
    return UserError(
        f"{what} is offered by {_wheels(plugins)}",
        setting=setting,
        value=value,
        remedy=f"block one of them in the environment: {BLOCK_VARIABLE}={example}",
    )


def _has_conf(package: str) -> bool:
    try:
        return find_spec(f"{package}.conf") is not None
    except (ImportError, ValueError):
        return False


def normal_name(name: str) -> str:
    """Return a distribution's name as packaging compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()
