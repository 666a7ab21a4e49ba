"""Training a model of one's own, in one call."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedModel

from ..protocol import TrainingMethod
from .config import OptimizerConfig, TrainConfig
from .data.blocks import Blocks
from .data.order import Order
from .language import LanguageTrainee
from .loop import Budget, Loop, Report
from .optimizers import Optimizers
from .prepared import FULL_RATE


def train(
    model: PreTrainedModel,
    blocks: Blocks,
    method: TrainingMethod,
    config: TrainConfig | None = None,
    optimizer: OptimizerConfig | None = None,
) -> Iterator[Report]:
    """Train a model in this process, a report a step.

    The method is taken off again when training ends, however it ends.

    Args:
        model: trained in place, every parameter that requires a gradient.
        blocks: what to train on (`read_blocks`); all of them.
        method: such as `build_plain(PlainConfig())` or `build_mst(MstConfig())`.
        config: `steps` or `minutes`, `batch_size`, `accumulate`, `autocast`, `seed`.
        optimizer: kind, rate, schedule, clipping.

    Raises:
        UserError: the method does not work on this model, or the loss is no number.
    """
    config, optimizer = config or TrainConfig(), optimizer or OptimizerConfig()
    model.train()
    with method.apply(model) as handle:
        trainee = LanguageTrainee(model, handle, model.device, config.autocast)
        order = Order(blocks, range(len(blocks)), config.batch_size, config.accumulate, config.seed)
        rate = optimizer.lr or FULL_RATE
        optimizers = Optimizers(model.named_parameters(), optimizer, rate, handle.optimizer)
        budget = Budget(config.steps, config.minutes)
        yield from Loop(trainee, order, optimizers, optimizer, budget, config.seed).run()
