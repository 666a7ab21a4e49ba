"""Where each task begins: what can be refused without torch is refused before torch is imported."""

from __future__ import annotations

from pathlib import Path

from fivefold import Run, UserError, nearest

from .config import SOURCES, DataConfig
from .pipe.config import PlanConfig
from .task_configs import GraphConfig, PredictConfig


def check(config: GraphConfig, run: Run) -> None:
    """Refuse settings of `fivefold graph` that do not go together.

    Raises:
        UserError: whatever the chosen method's settings refuse of this model or task, or settings
            that name no graph.
    """
    settings = run.settings("training")
    fits = getattr(settings, "check", None)
    if callable(fits):
        fits(config, run)
    run.node("data", DataConfig).require_named()


def graph(config: GraphConfig, run: Run) -> int:
    """Run `fivefold graph`: files are looked for before torch is imported."""
    _check_data(run)
    _exists(config.resume, "resume")
    from .engine.task import run as begin

    return begin(config, run)


def graph_plan(config: PlanConfig, run: Run) -> int:
    """Run `fivefold graph plan`."""
    _check_data(run)
    from .pipe.plan_task import run as begin

    return int(begin(config, run) or 0)


def graph_predict(config: PredictConfig, run: Run) -> int:
    """Run `fivefold graph predict`: the folder is looked for before torch is imported."""
    _exists(config.checkpoint, "checkpoint")
    _check_data(run)
    from .engine.predict import run as begin

    return begin(config, run)


def _check_data(run: Run) -> None:
    data = run.node("data", DataConfig)
    data.require_named()
    if data.source != "pyg":  # whose folder is made
        named = [name for name in SOURCES if name != "auto"]
        remedy = f"mend the path; of graphs by name, {nearest(data.path, named)}"
        _exists(data.path, "data.path", remedy)


def _exists(path: str, setting: str, remedy: str = "mend the path") -> None:
    if path and not Path(path).exists():
        raise UserError("there is no such file", setting=setting, value=path, remedy=remedy)
