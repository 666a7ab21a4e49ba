"""What a step gives: the accepted path on the device, the kept tokens on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Accepted:
    """The path that stands in each row, and the tokens it emits.

    Args:
        path: visited nodes from the root on, padded with 0.
        count: nodes visited, the root included, hence tokens emitted; 0 for rows that have stopped.
        tokens: accepted draft tokens and then one more; `count` of them are valid.
    """

    path: Int[Tensor, "batch level"]
    count: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch level"]


class TokenLogprob(NamedTuple):
    """How probable the model found a token it wrote.

    `logprob` and `top` are natural logarithms of the model's own softmax, before temperature,
    truncation and penalties; `top` holds the most probable tokens, best first.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class StepOutcome:
    """One step of all rows.

    Args:
        new_tokens: tokens of each row that are kept; cut after EOS, a stop string or a limit.
        text: their text as far as it is certain, if the session makes text.
        finished: why a row ended in this step: `eos`, `stop`, `length`, `context`, `cancelled`.
        logprobs: one a kept token, if the session records them.
        accepted: the whole path, on the device, before any cut.
        count: tokens kept, on the device: `accepted.count`, or less where a row was cut.
        hidden: the target's last hidden state at every node of the path, if the drafter needs it.
        active: rows that go on, on the host.
        num_nodes: nodes a row in the tree, the root included.
    """

    new_tokens: list[list[int]]
    text: list[str]
    finished: list[str | None]
    logprobs: list[list[TokenLogprob]] | None
    accepted: Accepted
    count: Int[Tensor, " batch"]
    hidden: Float[Tensor, "batch level hidden"] | None
    active: Bool[Tensor, " batch"]
    num_nodes: int

    @property
    def alive(self) -> bool:
        """Whether any row goes on."""
        return bool(self.active.any())
