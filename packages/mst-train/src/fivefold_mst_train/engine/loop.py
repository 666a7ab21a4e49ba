"""The training loop: one step is some micro-batches forward and backward, then the optimizer.

The loop knows nothing of models, data or files: what it trains is a `Trainee`, what it trains on a
`Source`, and whoever runs it writes metrics and checkpoints between its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor

from .config import OptimizerConfig
from .optimizers import Optimizers, share_of_rate
from .ranks import Ranks

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)
B_co = TypeVar("B_co", covariant=True)


@runtime_checkable
class Trainee(Protocol[B_contra]):
    """What is trained: gives the loss of a batch."""

    def loss(self, batch: B_contra, num_labels: int, is_last: bool) -> Float[Tensor, ""]:
        """Return the summed loss of a micro-batch over `num_labels`, the count of the whole step.

        Args:
            batch: a micro-batch of this process.
            num_labels: labels that count, over all processes and micro-batches of the step.
            is_last: whether it is the last micro-batch: gradients are exchanged in its backward.
        """
        ...


@runtime_checkable
class StepBatches(Protocol[B_co]):
    """What one process trains on in one step."""

    @property
    def batches(self) -> Sequence[B_co]:
        """Its own micro-batches."""
        ...

    @property
    def num_labels(self) -> int:
        """Labels that count, over every process and micro-batch."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens, over every process and micro-batch."""
        ...


@runtime_checkable
class Source(Protocol[B_co]):
    """Where batches come from: the same step gives the same batches, whenever it is asked."""

    def step(self, step: int) -> StepBatches[B_co]:
        """Return the data of a step, counted from 0."""
        ...


@dataclass
class Budget:
    """How long to train."""

    steps: int = 0
    """Steps, counted from the beginning of training; without meaning where `minutes` are given."""
    minutes: float = 0.0
    """Time, counted from the beginning of training; 0: `steps` decide."""

    def done(self, progress: Progress) -> float:
        """Return the share of the run that is done."""
        if self.minutes:
            return progress.seconds / (60 * self.minutes)
        return progress.step / self.steps


@dataclass
class Progress:
    """How far training has come; what a checkpoint keeps of the loop."""

    step: int = 0
    """Steps taken."""
    tokens: int = 0
    """Tokens trained on, over all processes, repetitions counted."""
    seconds: float = 0.0
    """Time spent in steps."""


@dataclass(frozen=True)
class Report:
    """What one step did."""

    step: int
    """Its number, from 1."""
    loss: float
    """Mean loss of the labels that count, in nats."""
    lr: float
    """Learning rate it took."""
    grad_norm: float | None
    """Norm of all gradients before clipping; None where it is not clipped."""
    tokens: int
    """Tokens of the step, over all processes."""
    seconds: float
    """How long it took."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all processes a second."""
        return self.tokens / self.seconds


@dataclass
class Loop(Generic[B]):
    """Everything that a step needs."""

    trainee: Trainee[B]
    source: Source[B]
    optimizers: Optimizers
    config: OptimizerConfig
    budget: Budget
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    progress: Progress = field(default_factory=Progress)
    watch: Callable[[int], AbstractContextManager[object]] = lambda _: nullcontext()
    """Called with each step's number; its context is around forward and backward."""

    def run(self) -> Iterator[Report]:
        """Train until the budget is spent, a report a step.

        Raises:
            UserError: the loss is no number any more.
        """
        while self.budget.done(self.progress) < 1:
            yield self.step()

    def step(self) -> Report:
        """Take one step."""
        began, number = time.perf_counter(), self.progress.step
        lr = self.optimizers.set_share(share_of_rate(self.config, self._position()))
        data = self.source.step(number)
        self._seed(number)
        with self.watch(number):
            total = self._descend(data)
        norm = self.optimizers.clip()
        self.optimizers.step()
        self.optimizers.zero_grad()
        loss, found = self._read(total, norm)
        seconds = self._shared(time.perf_counter() - began)
        self.progress = Progress(
            number + 1, self.progress.tokens + data.num_tokens, self.progress.seconds + seconds
        )
        if not loss - loss == 0:  # neither infinite nor NaN
            raise self._no_number(number + 1, loss)
        return Report(number + 1, loss, lr, found, data.num_tokens, seconds)

    def _no_number(self, step: int, loss: float) -> UserError:
        """Return what is said of a loss that is no number, with what keeps it one."""
        problem = f"the loss of step {step} is {loss}"
        if any(weight.dtype is torch.float16 for weight in self.optimizers.named.values()):
            return UserError(
                f"{problem}: float16 overflows in training",
                setting="model.dtype",
                value="float16",
                remedy="set it to float32 or bfloat16",
            )
        clip = "" if self.config.clip else ", or set optimizer.clip=1"
        return UserError(
            problem,
            setting="optimizer.lr",
            value=self.optimizers.rate,
            remedy=f"lower it{clip}, and resume from the last checkpoint",
        )

    def _shared(self, seconds: float) -> float:
        """Return the mean time of all processes, so that a budget of minutes ends for all alike."""
        if self.ranks.size == 1:
            return seconds
        device = self.ranks.collective_device()
        mean = torch.tensor(seconds / self.ranks.size, dtype=torch.float32, device=device)
        return float(self.ranks.sum(mean))

    def _position(self) -> float:
        """Return where in the schedule a step lies: in its middle, so that no rate is 0."""
        if self.budget.minutes:
            return self.budget.done(self.progress)
        return (self.progress.step + 0.5) / self.budget.steps

    def _seed(self, number: int) -> None:
        """Let dropout depend on seed, step and process alone, so that nothing of it is saved."""
        torch.manual_seed(((self.seed * 1_000_003 + number) * 65_537 + self.ranks.rank) % 2**63)

    def _descend(self, data: StepBatches[B]) -> Tensor:
        """Run the micro-batches forward and backward; return this process's part of the loss."""
        losses = []
        for place, batch in enumerate(data.batches, 1):
            is_last = place == len(data.batches)
            loss = self.trainee.loss(batch, data.num_labels, is_last)
            # gradients are averaged over processes, and the loss is a sum over them
            (loss * self.ranks.size).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _read(self, total: Tensor, norm: Tensor | None) -> tuple[float, float | None]:
        """Copy what is reported to the host: the one synchronisation of the step."""
        total = self.ranks.sum(total.double() if total.device.type == "cpu" else total.float())
        if norm is None:
            return float(total), None
        loss, found = torch.stack([total, norm.to(total)]).tolist()
        return loss, found
