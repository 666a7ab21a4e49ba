"""What a run is made of before it is put together: settings, data, the objective's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from fivefold import Run, UserError
from torch import nn

from ..protocol import TrainingHandle
from .config import (
    DataConfig,
    DistillConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
    TrainModelConfig,
)
from .data.blocks import Batch, Blocks, held_out
from .data.order import Order
from .loop import Trainee
from .ranks import Ranks

FULL_RATE, LORA_RATE, STUDENT_RATE = 5e-5, 2e-4, 2e-3
"""Peak learning rates where none is given."""


@dataclass
class Nodes:
    """The settings of a run, node by node."""

    train: TrainConfig
    model: TrainModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    lora: LoraConfig
    distill: DistillConfig

    @classmethod
    def of(cls, config: TrainConfig, run: Run) -> Nodes:
        """Read the nodes of a run."""
        return cls(
            config,
            run.node("model", TrainModelConfig),
            run.node("data", DataConfig),
            run.node("optimizer", OptimizerConfig),
            run.node("lora", LoraConfig),
            run.node("distill", DistillConfig),
        )

    def shared(self, run: Run) -> dict[str, object]:
        """Return every setting that processes must agree on, by its dotted name."""
        method = {"training": run.method("training").name, **_flat("training", run)}
        found = {key: value for key, value in asdict(self.train).items() if key != "output"}
        for name in ("model", "data", "optimizer", "lora", "distill"):
            found |= {f"{name}.{key}": value for key, value in asdict(getattr(self, name)).items()}
        secret = {"model.token"}
        return {k: _plain(v) for k, v in {**found, **method}.items() if k not in secret}


@dataclass
class Split:
    """What is trained on, and what is held out."""

    blocks: Blocks
    train: list[int]
    evaluation: Blocks
    held_out: list[int]

    @classmethod
    def of(cls, blocks: Blocks, share: float, other: Blocks | None) -> Split:
        """Hold out a share of the blocks, or take other data for evaluation."""
        if other is not None:
            return cls(blocks, list(range(len(blocks))), other, list(range(len(other))))
        train, out = held_out(len(blocks), share)
        return cls(blocks, train, blocks, out)

    def __str__(self) -> str:
        """Say how much there is to train on."""
        tokens, seq_len = len(self.blocks.tokens), self.blocks.seq_len
        return (
            f"{tokens:,} tokens: {len(self.train)} blocks of {seq_len} to train on, "
            f"{len(self.held_out)} held out, {(tokens - 1) % seq_len} tokens left over"
        )

    def order(self, config: TrainConfig, ranks: Ranks, sharing: int) -> Order:
        """Return the walk of one process through what is trained on.

        Args:
            config: batch size, accumulation, seed.
            ranks: the processes.
            sharing: of them hold parts of the same sequences.
        """
        return Order(
            self.blocks,
            self.train,
            config.batch_size,
            config.accumulate,
            config.seed,
            ranks.rank // sharing,
            ranks.size // sharing,
        )

    def chosen(self, limit: int) -> list[int]:
        """Return the held-out blocks that an evaluation reads, spread evenly; 0: all."""
        count = len(self.held_out)
        if not limit or count <= limit:
            return self.held_out
        return [self.held_out[index * count // limit] for index in range(limit)]


@dataclass
class Prepared:
    """What an objective brings to a session."""

    trainee: Trainee[Batch]
    module: nn.Module
    """What is trained, unwrapped: its parameters have their names in checkpoints."""
    handle: TrainingHandle
    split: Split
    rate: float
    """Peak learning rate where none is given."""
    evaluate: Callable[[Iterable[Batch], Ranks], dict[str, float]]
    save: Callable[[Path], None]
    fingerprint: str
    """Of what training began with."""
    predicted: int | None = None
    """Bytes that a step is expected to take at its peak."""


def check_length(seq_len: int, context_len: int) -> None:
    """Refuse sequences longer than the model has positions.

    Raises:
        UserError: naming the longest.
    """
    if seq_len > context_len:
        raise UserError(
            f"the model has {context_len} positions",
            setting="seq_len",
            value=seq_len,
            remedy=f"give seq_len={context_len} or less, or a model of longer context",
        )


def _flat(prefix: str, run: Run) -> dict[str, object]:
    return _flattened(prefix, asdict(run.settings("training")))


def _flattened(prefix: str, values: dict[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        found |= _flattened(name, value) if isinstance(value, dict) else {name: value}
    return found


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, list) else value
