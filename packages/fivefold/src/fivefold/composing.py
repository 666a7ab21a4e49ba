"""From overrides to objects: Hydra composes, the dataclasses check, and code sees no DictConfig."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields, is_dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import version as hydra_version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from .composition import Composition
from .description import Task
from .errors import UserError, nearest
from .literal import decode, escape
from .logs import HYDRA_LOGGING, JOB_LOGGING
from .plugins import Plugins
from .refusals import refusing
from .rewriting import Rewriter, Rewritten
from .schema import enum_names, enum_of, how_to_give, settings_of, types_at

_PROVIDER = "fivefold"
_STAMP = "${now:%Y-%m-%d_%H-%M-%S-%f}"


class Composer:
    """One task's configuration space inside Hydra: `composing` opens it and restores Hydra."""

    def __init__(self, task: Task, plugins: Plugins, hydra: Hydra) -> None:
        """Keep what composing needs; see `composing`."""
        self.task = task
        self.plugins = plugins
        self.hydra = hydra
        self.config_name = config_name(task)

    def rewrite(self, lines: list[str], *, is_sweep: bool) -> Rewritten:
        """Return the overrides for Hydra, checked against what can be set."""
        rewriter = Rewriter(self.task, self.plugins, is_sweep, self.group_options, self.choices)
        with refusing():
            return rewriter.rewrite(lines)

    def group_options(self, group: str) -> list[str]:
        """Return a group's options, from the descriptions and from files."""
        return sorted(self.hydra.config_loader.get_group_options(group))

    def compose(self, lines: list[str]) -> Composition:
        """Compose the user's overrides into objects, without a run."""
        return self.compose_lines(self.rewrite(lines, is_sweep=False))

    def compose_lines(self, rewritten: Rewritten) -> Composition:
        """Compose what `rewrite` returned into objects, without a run."""
        with refusing(rewritten.schema, rewritten.written):
            cfg = self.hydra.compose_config(self.config_name, rewritten.lines, RunMode.RUN)
            choices = dict(cfg.hydra.runtime.choices)
            with open_dict(cfg):
                del cfg["hydra"]
        return realize(self.task, self.plugins, cfg, choices)

    def choices(self, lines: list[str]) -> dict[str, str]:
        """Return the option that overrides for Hydra lead to, by group."""
        defaults = self.hydra.config_loader.compute_defaults_list(
            self.config_name, lines, RunMode.RUN
        )
        choices: dict[str, str] = defaults.overrides.known_choices
        return choices


def config_name(task: Task) -> str:
    """Return the name of a task's primary configuration in Hydra's store."""
    return f"fivefold_{task.name.replace(' ', '_')}"


@contextmanager
def composing(task: Task, plugins: Plugins, folders: tuple[str, ...] = ()) -> Iterator[Composer]:
    """Register a task with Hydra and yield its composer; Hydra's singletons are restored after.

    Args:
        task: the task whose methods, nodes and settings can be composed.
        plugins: what is installed.
        folders: more folders of YAML files, searched first (`--config-dir`).
    """
    HydraPlugins.instance()  # scanned once a process: what they store must be there to restore
    store, config = ConfigStore.instance(), HydraConfig.instance()
    kept, kept_config, kept_hydra = store.repo, config.cfg, GlobalHydra.instance().hydra
    store.repo = _copied(kept)
    GlobalHydra.instance().clear()
    hydra_version.setbase("1.3")
    try:
        with refusing():
            _register(store, task, plugins)
        yield Composer(task, plugins, _hydra(task, plugins, folders))
    finally:
        store.repo = kept
        config.cfg = kept_config
        GlobalHydra.instance().hydra = kept_hydra


def _hydra(task: Task, plugins: Plugins, folders: tuple[str, ...]) -> Hydra:
    path = create_config_search_path(None)
    before_schema = SearchPathQuery("schema", None)
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError("no such folder", setting="--config-dir", value=folder)
        path.prepend("command-line", f"file://{Path(folder).resolve()}", before_schema)
    if Path("conf").is_dir():
        path.prepend("working-directory", f"file://{Path('conf').resolve()}", before_schema)
    for package in plugins.conf_packages():
        path.prepend(package.partition(".")[0], f"pkg://{package}", before_schema)
    return Hydra.create_main_hydra2(task.name.replace(" ", "_"), path)


def _register(store: ConfigStore, task: Task, plugins: Plugins) -> None:
    """Store the task's root, its methods and its options where Hydra looks for them."""
    store.store("fivefold", JOB_LOGGING, "hydra/job_logging", provider=_PROVIDER)
    store.store("fivefold", HYDRA_LOGGING, "hydra/hydra_logging", provider=_PROVIDER)
    for hook in task.hooks:
        for name, method in plugins.methods(task, hook).items():
            try:
                store.store(name, method.config, hook, provider=_PROVIDER)
            except Exception as error:  # a third party's fields and their default factories
                reason = str(error).partition("\n")[0]
                plugins.withdraw(hook, method, f"{method.config.__name__}: {reason}")
    for group in task.groups:
        for name, values in group.options.items():
            store.store(name, dict(values), group.node, provider=_PROVIDER)
    store.store(config_name(task), _root(task), provider=_PROVIDER)


def _root(task: Task) -> type:
    """Return the task's primary configuration: its own fields, `debug`, and a field a node."""
    word = task.name.replace(" ", "_")
    hydra = {
        "run": {"dir": f"outputs/{word}/{_STAMP}"},
        "sweep": {"dir": f"multirun/{word}/{_STAMP}"},
        "job": {"chdir": False},
        "output_subdir": None,  # what it would hold, `config.yaml` and `result.json` say
    }
    defaults: list[Any] = [
        "_self_",
        *({hook: method} for hook, method in task.hooks.items()),
        *({group.node: group.default} for group in task.groups),
        {"override hydra/job_logging": "fivefold"},
        {"override hydra/hydra_logging": "fivefold"},
    ]
    added: list[tuple[str, Any, Any]] = [("debug", bool, False)]
    added += [(hook, Any, None) for hook in task.hooks]
    added += [(g.node, g.config, field(default_factory=g.config)) for g in task.groups]
    added += [("hydra", dict[str, Any], field(default_factory=lambda: hydra))]
    added += [("defaults", list[Any], field(default_factory=lambda: defaults))]
    return make_dataclass("Root", added, bases=(task.config,))


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the store's tree with its own folders and the same leaves."""
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


# --------------------------------------------------------------------------------- into objects


def realize(
    task: Task, plugins: Plugins, cfg: DictConfig, choices: Mapping[str, Any]
) -> Composition:
    """Turn a composed configuration into the dataclasses that describe it, checks included.

    Args:
        task: the task that was composed.
        plugins: what is installed.
        cfg: the configuration without Hydra's own node.
        choices: the option chosen in each group.

    Raises:
        UserError: from a dataclass's own check, for a value that is missing, or for a method that
            no plugin offers.
    """
    with refusing():
        methods = {hook: plugins.method(task, hook, str(choices.get(hook))) for hook in task.hooks}
        nodes = {g.node: instantiate(g.config, cfg[g.node], g.node) for g in task.groups}
        settings = {
            hook: instantiate(method.config, cfg[hook], hook) for hook, method in methods.items()
        }
        config = instantiate(task.config, cfg, "")
        return Composition(task, config, nodes, methods, settings, debug=bool(cfg.debug))


def instantiate(kind: type, cfg: DictConfig, path: str) -> Any:
    """Make a dataclass of a composed node, as `OmegaConf.to_object` does.

    Done here because a missing value is the user's to give, a check's setting wants its node
    before it, and literal text its mark taken off before the check sees it.
    """
    values = {}
    for item in fields(kind):
        key = f"{path}.{item.name}" if path else item.name
        if OmegaConf.is_missing(cfg, item.name):
            raise UserError("a value must be given", setting=key, remedy=f"add {key}=…")
        if item.init and item.name in cfg:
            values[item.name] = _plain(cfg[item.name], key)
    try:
        return kind(**values)
    except UserError as error:
        raise _inside(error, path, kind, values) from error.__cause__
    except (TypeError, ValueError) as error:
        raise UserError(str(error), setting=path) from error


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return decode(value)
    if isinstance(value, Path):
        return Path(decode(str(value)))
    if isinstance(value, DictConfig):
        kind = OmegaConf.get_type(value)
        if isinstance(kind, type) and is_dataclass(kind):
            return instantiate(kind, value, path)
        return {key: _plain(value[key], f"{path}.{key!s}") for key in value}
    if isinstance(value, ListConfig):
        return [_plain(item, f"{path}.{index}") for index, item in enumerate(value)]
    return value


def _inside(error: UserError, path: str, kind: type, values: Mapping[str, Any]) -> UserError:
    """Return a check's error with its setting spelt from the root, and its value."""
    name, _, rest = error.setting.partition(".")
    known = {item.name for item in fields(kind)}
    if name not in known:
        name, _, rest = error.setting.removeprefix(f"{path}.").partition(".")
    if name not in known:
        return error
    setting = f"{path}.{name}" if path else name
    if rest or error.has_value:
        return error.located(f"{setting}.{rest}" if rest else setting)
    return error.located(setting, values.get(name))


def validated(kind: type, values: Mapping[str, object], path: str) -> Any:
    """Make a dataclass of plain values, typed and checked as if they had been composed.

    Raises:
        UserError: for a key that the dataclass has not, or a value that it refuses.
    """
    cfg = OmegaConf.structured(kind)
    for key, value in values.items():
        setting, types = f"{path}.{key}", types_at(kind, key)
        if not types:
            remedy = nearest(setting, [found.key for found in settings_of(kind, f"{path}.")])
            raise UserError("no such setting", setting=setting, value=value, remedy=remedy)
        try:
            OmegaConf.update(cfg, key, _escaped(value, enum_of(types[0])))
        except OmegaConfBaseException as error:
            remedy = how_to_give(setting, types[0])
            raise UserError(
                "this value does not fit", setting=setting, value=value, remedy=remedy
            ) from error
    with refusing():
        return instantiate(kind, cfg, path)


def _escaped(value: object, enum: type[Enum] | None) -> object:
    """Return a plain value for OmegaConf: text literal, enum members by their name."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return escape(value) if enum is None else enum_names(enum).get(value, value)
    if isinstance(value, Mapping):
        return {key: _escaped(item, enum) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item, enum) for item in value]
    return value
