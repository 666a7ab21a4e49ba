"""One job: the function that Hydra calls with a composed configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

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
    outcomes: list[Outcome] = field(default_factory=list)
    """How the jobs of this process ended."""

    def __call__(self, cfg: DictConfig) -> Outcome:
        """Run one job inside its run folder and say how it ended; `result.json` is written."""
        hydra, plugins = HydraConfig.get(), installed()
        folder, choices = Path(hydra.runtime.output_dir), dict(hydra.runtime.choices)

        def act(result: Result) -> int:
            _save_config(self.task_name, cfg, choices, folder)
            task = plugins.task(self.task_name)
            composition = realize(task, plugins, cfg, choices)
            return run_composed(composition, plugins, result, folder)

        outcome = conclude(self.task_name, act, folder=folder, debug=bool(cfg.debug))
        outcome.sweep_folder = str(hydra.sweep.dir)
        outcome.overrides = list(OmegaConf.to_container(hydra.overrides.task))  # type: ignore[arg-type]
        self.outcomes.append(outcome)
        if outcome.exit_status == INTERRUPTED:
            raise KeyboardInterrupt
        return outcome


def _save_config(task_name: str, cfg: DictConfig, choices: Mapping[str, Any], folder: Path) -> None:
    """Write the resolved configuration into the run folder, access tokens left out.

    Its first line says what was chosen, which the settings alone do not.
    """
    with refusing():
        resolved = OmegaConf.to_container(cfg, resolve=True)
    chosen = [f"{node}={choices[node]}" for node in map(str, cfg) if choices.get(node)]
    settings = yaml.safe_dump(_shown(plain(resolved)), allow_unicode=True, sort_keys=False)
    head = " ".join(["# fivefold", task_name, *chosen])
    write_atomically(folder / "config.yaml", f"{head}\n{settings}", "hydra.run.dir")


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
