"""What the parts of `benchmarks/gnnpipe.py` have in common: cases, sessions, the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fivefold_gnnpipe.config import ModelConfig, TrainOptions
from fivefold_gnnpipe.engine.api import make_session
from fivefold_gnnpipe.engine.training import Session

FOREVER = 1 << 20
"""Epochs of a run that is only timed: it is never evaluated."""


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    name: str
    data: dict[str, Any]
    """The graph of every part."""
    preferential_nodes: int
    layers: int
    hidden: int
    epochs_timed: int
    rates: Sequence[float]
    """Mbit/s of the curve."""
    accuracy: Sequence[tuple[str, int, int]]
    """Model, layers, seeds."""
    accuracy_epochs: int
    accuracy_hidden: int
    refresh: int
    staleness: Sequence[tuple[str, int, int]]
    """Model, layers, seeds."""
    staleness_epochs: int
    growth_nodes: Sequence[int]
    growth_layers: Sequence[int]

    @property
    def model(self) -> ModelConfig:
        """The network whose bytes and seconds are measured."""
        return ModelConfig(name="resgcn", layers=self.layers, hidden=self.hidden)


FULL = Case(
    name="full",
    data={"source": "debian"},
    preferential_nodes=50_000,
    layers=32,
    hidden=64,
    epochs_timed=4,
    rates=(10.0, 100.0, 1000.0, 10_000.0),
    accuracy=(("gcnii", 8, 8), ("resgcn", 8, 8), ("gcnii", 32, 3), ("resgcn", 32, 3)),
    accuracy_epochs=100,
    accuracy_hidden=16,
    refresh=10,
    staleness=(("gcnii", 32, 3), ("gcnii", 8, 2), ("resgcn", 8, 2)),
    staleness_epochs=100,
    growth_nodes=(50_000, 100_000, 200_000, 500_000, 1_000_000),
    growth_layers=(4, 8, 16, 32),
)
QUICK = Case(
    name=(
        "16 columns instead of 64; accuracy: 8 layers, two seeds, 60 epochs, a history of 6; "
        "growth: up to 8,000 vertices"
    ),
    data={"source": "debian"},
    preferential_nodes=50_000,
    layers=32,
    hidden=16,
    epochs_timed=3,
    rates=(100.0, 1000.0),
    accuracy=(("gcnii", 8, 2), ("resgcn", 8, 2)),
    accuracy_epochs=60,
    accuracy_hidden=16,
    refresh=6,
    staleness=(("resgcn", 8, 1),),
    staleness_epochs=30,
    growth_nodes=(2_000, 4_000, 8_000),
    growth_layers=(2, 4, 8),
)


def session_of(epochs: int = FOREVER, device: str = "cpu", **options: Any) -> Session:
    """Return a session in single precision."""
    every = options.pop("eval_every", epochs)
    made = TrainOptions(epochs=epochs, eval_every=every, checkpoint_every=0, **options)
    return make_session(made, device, torch.float32)
