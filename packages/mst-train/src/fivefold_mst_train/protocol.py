"""What a training method is: something applied to a model, reversibly, before training begins.

The engine calls the model as Hugging Face does and reads `.loss`; a method changes what that call
costs, never what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerBuilder = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes the run's optimizer for some parameters: `lambda p: AdamW(p, lr=5e-5)`."""


@dataclass(frozen=True)
class TokenScores:
    """Sums over the labels of a batch that count; each a tensor on the model's device."""

    nll: Float[Tensor, ""]
    """Negative log-likelihoods, summed, in nats: perplexity is exp(nll / num_tokens)."""
    num_correct: Int[Tensor, ""]
    """Labels that are the most likely token."""
    num_tokens: Int[Tensor, ""]
    """Labels that are not the ignored one."""


@runtime_checkable
class TrainingHandle(Protocol):
    """A method applied to one model.

    Training calls `model(...)`, or the DDP or FSDP2 module made of it, with these keywords, all
    [batch, token]: `input_ids`; `shift_labels`, which are shifted already (`labels[t] =
    ids[t + 1]`, -100 where nothing is to be learnt); `labels`, the same tensor again
    (transformers looks for it to know that a loss is wanted); `position_ids` where rows are
    packed; `use_cache=False`; and `num_items_in_batch`, a scalar tensor with the number of labels
    that count over every process and every micro-step of one optimizer step. The call returns an
    output whose `.loss` is the sum over this process's labels divided by `num_items_in_batch`.

    The engine therefore adds up micro-steps without dividing, and multiplies the loss by the
    number of processes where gradients are averaged (DDP, FSDP2).
    """

    steps_in_backward: bool
    """Whether parameters are stepped while backward runs: then there is one micro-step a step, no
    clipping by the global norm, and `optimizer(...).step()` has nothing left to do."""
    sequence_parallel: int
    """Processes that share one sequence. Ranks `r // sequence_parallel` that are equal must be
    given the same rows; `local_batch` cuts out each one's part."""

    def optimizer(self, build: OptimizerBuilder, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer to use, called once, after DDP or FSDP2 has wrapped the model.

        Where parameters are stepped in backward, what is returned still has `param_groups` for
        schedules of the learning rate, `state_dict`, `load_state_dict`, `step` and `zero_grad`.
        """
        ...

    def local_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's part of a batch (keys as the model is called, [batch, token])."""
        ...

    def scores(self, output: Any, shift_labels: Int[Tensor, "batch token"]) -> TokenScores:
        """Return what evaluation needs of an output, made under `torch.no_grad()`."""
        ...

    def predicted_peak(self, batch_size: int, seq_len: int) -> int | None:
        """Return the bytes a training step is expected to take at its peak; None: not known.

        They are counted over parameters, gradients and optimizer state.
        """
        ...

    def report(self) -> list[dict[str, str]]:
        """Return one row a module that was looked at: `module`, `state`, `why`."""
        ...

    def revert(self) -> None:
        """Leave the model bit for bit as it was; a second call does nothing."""
        ...

    def __enter__(self) -> TrainingHandle: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class TrainingMethod(Protocol):
    """What `build(settings)` of a method behind the `training` hook returns."""

    name: str
    """The option's name: `training=mst`."""

    def apply(self, model: nn.Module) -> TrainingHandle:
        """Change how a model trains, before DDP, FSDP2 or HF `Trainer` wraps it.

        Parameters keep their names and values; `state_dict`, `generate`, `save_pretrained` work
        as before.

        Raises:
            UserError: the model has nothing that the method works on, or settings do not go with
                it; in a run of several processes, the processes disagree.
        """
        ...
