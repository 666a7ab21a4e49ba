"""A run that is open: it takes steps, evaluates, saves, reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fivefold import UserError

from .checkpoints import Checkpoint, Checkpoints
from .config import TrainConfig
from .loop import Loop
from .memory import PeakMeter
from .metrics import Metrics, Peak


@dataclass
class Session:
    """An open training run: takes steps, evaluates, saves, reports."""

    config: TrainConfig
    loop: Loop[Any]
    settings: dict[str, Any]
    """What a checkpoint must agree with to be resumed."""
    checkpoints: Checkpoints
    metrics: Metrics | None
    """Where numbers go; None in all processes but the first."""
    save_model: Callable[[Path], None]
    evaluate: Callable[[], dict[str, float]] | None
    meter: PeakMeter
    predicted: int | None = None
    losses: list[float] = field(default_factory=list)
    """Of every step of this run."""
    speeds: list[float] = field(default_factory=list)
    """Tokens a second of every step of this run."""
    evaluations: list[dict[str, object]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    """Figures of the newest evaluation."""
    saved: Path | None = None
    """The newest checkpoint."""

    def run(self) -> None:
        """Train to the end of the budget; the last step is always saved.

        Raises:
            UserError: the loss is no number, or a checkpoint cannot be written.
        """
        budget = self.loop.budget
        for report in self.loop.run():
            done = budget.done(self.loop.progress)
            self.losses.append(report.loss)
            self.speeds.append(report.tokens_per_second)
            if self.metrics is not None:
                self.metrics.step(report, Peak(self.meter.live, self.predicted), done)
            is_last = done >= 1
            if self.evaluate and (is_last or _due(report.step, self.config.eval_every)):
                self.last = self.evaluate()
                self.evaluations.append({"step": report.step, **self.last})
                if self.metrics is not None:
                    self.metrics.evaluation(report.step, self.last)
            if is_last or _due(report.step, self.config.save_every):
                self.save()

    @property
    def tokens_per_second(self) -> float | None:
        """The median over the steps of this run; None before the first."""
        return median(self.speeds) if self.speeds else None

    def save(self) -> None:
        """Write a checkpoint of where training stands."""
        self.saved = self.checkpoints.save(
            self.loop.progress, self.settings, self.loop.optimizers.state(), self.save_model
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, whose weights the model already has.

        Raises:
            UserError: it was made with other settings, is damaged, or is done already.
        """
        checkpoint.require(self.settings)
        self.loop.progress = checkpoint.progress
        if self.loop.budget.done(self.loop.progress) >= 1:
            raise UserError(
                f"this checkpoint has taken all {checkpoint.progress.step} steps",
                setting="steps",
                remedy="give more steps, or train on from its weights: "
                f"model={checkpoint.folder} without resume",
            )
        try:
            self.loop.optimizers.restore(checkpoint.states())
        except ValueError as error:
            raise UserError(
                f"the checkpoint is of another model ({error})",
                setting="resume",
                value=checkpoint.folder,
                remedy="give model, objective and LoRA as they were",
            ) from error


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
