"""The protocol of a training method on one whole graph, and what it is given and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import TrainOptions


@dataclass(frozen=True)
class Session:
    """What every method is given beside the plan and the graph."""

    options: TrainOptions
    """Epochs, optimizer, seed: the same for every method."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""
    dtype: torch.dtype = torch.float32
    """Number format of weights and activations."""
    rank: int = 0
    """This process among those that torchrun started."""
    world: int = 1
    """Processes that torchrun started."""


@dataclass
class EpochReport:
    """What one epoch of training was; sums and maxima are over all ranks."""

    loss: float
    """The loss that was descended: mean over labelled training vertices."""
    bytes_sent: int = 0
    """Bytes that crossed between ranks, all ranks together."""
    seconds: float = 0.0
    """Wall time, or simulated time where the link is simulated."""
    seconds_waited: float = 0.0
    """Largest time that a rank waited for messages."""
    seconds_compute: float = 0.0
    """Largest time that a rank computed."""
    staleness: list[float] = field(default_factory=list)
    """Mean relative distance of history and fresh embedding, a number a layer; empty: nothing is
    stale."""
    links: dict[str, int] = field(default_factory=dict)
    """Bytes a link and direction: `0>1`."""


@runtime_checkable
class GraphTraining(Protocol):
    """A way of training a `LayerPlan` on one whole graph.

    `build(settings, plan, data, session)` makes one. Each epoch is one optimizer step; evaluation
    is always exact. In several processes every rank calls the same functions in the same order.
    """

    def epoch(self, index: int) -> EpochReport:
        """Train for one epoch: forward, backward, one optimizer step.

        Args:
            index: the epoch, from 0; it keys dropout masks and chunk orders.
        """

    def logits(self) -> Float[Tensor, "node class"] | None:
        """Return the exact scores of all vertices with today's weights, without dropout.

        Rank 0 has them, in the order of the graph's vertices, on the CPU; other ranks `None`.
        """

    def weights(self) -> dict[str, Tensor] | None:
        """Return the whole plan's `state_dict` on the CPU at rank 0; other ranks `None`."""

    def state(self) -> dict[str, Tensor]:
        """Return what this rank needs beside the weights to go on: optimizer, history."""

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on from what `weights` and `state` returned.

        Args:
            weights: the whole plan's.
            state: this rank's.
            epoch: the next epoch to train.
        """

    def identity(self) -> dict[str, str | int]:
        """Return what a run must share with the one that it resumes: method, parts, cuts."""

    def facts(self) -> dict[str, float | int | str | None]:
        """Return what is said beside the table.

        `bytes_formula`: what an epoch should send; `peak_memory_bytes`: the largest rank's.
        """

    def exchange(self, note: str) -> list[str]:
        """Return every process's note, in order of rank; all wait for one another."""

    def close(self) -> None:
        """Release what the method holds of other processes."""
