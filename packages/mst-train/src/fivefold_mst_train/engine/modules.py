"""Training any module on any batches for a while: what recipes of drafts call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .checkpoints import Checkpoints, read_checkpoint
from .config import OptimizerConfig
from .loop import Budget, Loop, Progress, Source
from .optimizers import Optimizers
from .ranks import Ranks

B = TypeVar("B")
WEIGHTS = "weights.safetensors"
SAVE_SECONDS = 120.0
"""Time between checkpoints."""
LOG_EVERY = 20
"""Steps between lines in the log."""
_log = logging.getLogger(__name__)


@dataclass
class _ModuleTrainee(Generic[B]):
    """A module by its own loss, which says itself what it divides by."""

    of: Callable[[B, float], Tensor]
    done: Callable[[], float]

    def loss(self, batch: B, num_labels: int, is_last: bool) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        return self.of(batch, self.done())


def train_module(
    module: nn.Module,
    loss: Callable[[B, float], Tensor],
    source: Source[B],
    optimizer: OptimizerConfig,
    budget: Budget,
    folder: Path,
    seed: int = 0,
) -> Progress:
    """Train a module in this process; called again, it goes on from its newest checkpoint.

    Args:
        module: trained in place, every parameter that requires a gradient.
        loss: mean loss of a batch, given the share of the run that is done.
        source: of batches, one a step.
        optimizer: kind, rate, schedule, clipping; `lr` must be given.
        budget: steps or minutes, over all calls.
        folder: of checkpoints.
        seed: of dropout.

    Returns:
        How far it came, over all calls.

    Raises:
        UserError: the loss is no number, or a checkpoint is damaged or of another module.
    """
    optimizers = Optimizers(module.named_parameters(), optimizer, optimizer.lr)
    loop: Loop[Any] = Loop(
        _ModuleTrainee(loss, lambda: budget.done(loop.progress)),
        source,
        optimizers,
        optimizer,
        budget,
        seed,
    )
    settings = {"optimizer.name": optimizer.name.value, "weights": sorted(optimizers.named)}
    checkpoints = Checkpoints(folder, 1, Ranks())

    def save() -> None:
        checkpoints.save(loop.progress, settings, optimizers.state(), save_weights)

    def save_weights(draft: Path) -> None:
        weights = {name: weight.detach().contiguous() for name, weight in optimizers.named.items()}
        save_file(weights, draft / WEIGHTS)

    if folder.is_dir() and any(folder.iterdir()):
        checkpoint = read_checkpoint(str(folder))
        checkpoint.require(settings)
        module.load_state_dict(load_file(checkpoint.folder / WEIGHTS), strict=False)
        optimizers.restore(checkpoint.states())
        loop.progress = checkpoint.progress
        _log.info("resumed at step %d, %.0f s", loop.progress.step, loop.progress.seconds)
    losses: list[float] = []
    saved = time.monotonic()
    for report in loop.run():
        losses.append(report.loss)
        if report.step % LOG_EVERY == 0:
            mean = sum(losses) / len(losses)
            told = (report.step, loop.progress.seconds, loop.progress.tokens, mean)
            _log.info("step %d, %.0f s, %d tokens, loss %.3f", *told)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    save()
    return loop.progress
