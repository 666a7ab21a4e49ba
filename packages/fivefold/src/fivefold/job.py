"""One job: the function that Hydra calls with a composed configuration."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from .again import as_written, same_again
from .composing import realize
from .discovery import installed
from .ending import INTERRUPTED, Outcome, conclude, run_composed
from .files import write_atomically
from .literal import decode
from .refusals import refusing
from .result import Result, plain
from .secret import LEFT_OUT, is_secret


@dataclass
class Job:
    """A task as Hydra runs it; it can be sent to another process, where a launcher wants it."""

    task_name: str
    written: dict[str, str]
    """The overrides as Hydra reads them, and as the user wrote them."""
    outcomes: list[Outcome] = field(default_factory=list)
    """How the jobs of this process ended."""

    def __call__(self, cfg: DictConfig) -> Outcome:
        """Run one job inside its run folder and say how it ended; `result.json` is written."""
        hydra, plugins = HydraConfig.get(), installed()
        folder, choices = rank_folder(Path(hydra.runtime.output_dir)), dict(hydra.runtime.choices)
        lines = cast("list[str]", OmegaConf.to_container(hydra.overrides.task))  # not resolved
        words = as_written(lines, self.written)

        def act(result: Result) -> int:
            task = plugins.task(self.task_name)
            _save_config(cfg, same_again(task, choices, words), folder)
            composition = realize(task, plugins, cfg, choices)
            return run_composed(composition, plugins, result, folder)

        outcome = conclude(self.task_name, act, folder=folder, debug=bool(cfg.debug))
        outcome.sweep_folder = str(hydra.sweep.dir)
        outcome.overrides = words
        self.outcomes.append(outcome)
        if outcome.exit_status == INTERRUPTED:
            raise KeyboardInterrupt
        return outcome


def rank_folder(folder: Path) -> Path:
    """Return this process's own run folder, made.

    Of the ranks that torchrun starts, 0 has the run's folder and the others one inside it, so
    that they do not write over its `result.json`.
    """
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    if rank == "0":
        return folder
    own = folder / f"rank-{rank}"
    with refusing():
        own.mkdir(parents=True, exist_ok=True)
    return own


def _save_config(cfg: DictConfig, command: str, folder: Path) -> None:
    """Write the resolved configuration into the run folder, access tokens left out.

    Its first line is the command that composes it, since the settings do not say what was chosen.
    """
    with refusing():
        resolved = OmegaConf.to_container(cfg, resolve=True)
    settings = yaml.safe_dump(_shown(plain(resolved)), allow_unicode=True, sort_keys=False)
    write_atomically(folder / "config.yaml", f"# {command}\n{settings}", "hydra.run.dir")


def _shown(value: Any) -> Any:
    """Return plain settings as a file may hold them: marks taken off text, no access token."""
    if isinstance(value, dict):
        return {
            key: LEFT_OUT if is_secret(key) and item else _shown(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return decode(value) if isinstance(value, str) else value
