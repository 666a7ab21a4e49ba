"""Where decoding stands between two steps: what a drafter and a rule may look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from fivefold_lm import History, Purpose, RandomStream, Sampler
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from .outcome import StepOutcome


@dataclass(frozen=True)
class DecodeState:
    """The rows of a batch after some steps. All tensors live on the target's device.

    The target's cache holds all committed tokens but the last; the last is the next tree's root.

    Args:
        tokens: committed tokens, prompt first, right-padded; valid up to `lengths`.
        lengths: committed tokens a row, the last one included.
        active: rows that have not stopped. A stopped row stays in the batch and emits nothing.
        request: each row's number in the random stream.
        noise: random numbers by (seed, request, absolute position, purpose, draw index).
        sampler: what makes the target's law out of logits.
        history: what the sampler's penalties depend on; `None` if they do not.
        alive: whether any row is active, known on the host.
    """

    tokens: Int[Tensor, "batch position"]
    lengths: Int[Tensor, " batch"]
    active: Bool[Tensor, " batch"]
    request: Int[Tensor, " batch"]
    noise: RandomStream
    sampler: Sampler
    history: History | None
    alive: bool

    @property
    def last_token(self) -> Int[Tensor, " batch"]:
        """The newest committed token of each row."""
        return self.tokens.gather(1, self.lengths[:, None] - 1)[:, 0]

    def uniform(
        self, purpose: Purpose, depth: int, draws: int = 1
    ) -> Float64[Tensor, "batch draw"]:
        """Return uniforms for the token `depth + 1` places after the last committed one.

        The key is the token's absolute position, not the step: numbers that a step drew for a
        position it did not reach may be drawn again, because nothing that was emitted depends on
        them; and a row's numbers do not depend on its batch, its tree, or its number of steps.
        """
        return self.noise.uniform(purpose, self.request, self.lengths + depth, draws)

    def uniform_by_level(self, purpose: Purpose, levels: int) -> Float64[Tensor, "batch level"]:
        """Return one uniform a level: `uniform` of depth 0, 1, … in one go."""
        levels_below = torch.arange(levels, device=self.lengths.device)
        position = (self.lengths[:, None] + levels_below).flatten()
        request = self.request.repeat_interleave(levels)
        return self.noise.uniform(purpose, request, position).view(-1, levels)

    def exponential(self, purpose: Purpose, depth: int, size: int) -> Float64[Tensor, "batch word"]:
        """Return exponential variables, one a word, for the token `depth + 1` places on."""
        return self.noise.exponential(purpose, self.request, self.lengths + depth, size)

    def after(self, outcome: StepOutcome) -> DecodeState:
        """Return the state after a step: its tokens committed, rows that have ended inactive."""
        accepted, history = outcome.accepted, self.history
        # Until a row has ended nothing has to be copied to the device, which would wait for it.
        ended = not bool(outcome.active.all())
        levels = torch.arange(accepted.tokens.shape[1], device=self.lengths.device)
        fresh = levels < outcome.count[:, None]  # [batch, level]
        # Padding goes to the buffer's last place, which no token ever takes.
        place = torch.where(fresh, self.lengths[:, None] + levels, self.tokens.shape[1] - 1)
        tokens = self.tokens.scatter(1, place, accepted.tokens)
        if history is not None:
            for level in range(accepted.tokens.shape[1]):
                history = history.with_tokens(accepted.tokens[:, level], fresh[:, level])
        return replace(
            self,
            tokens=tokens,
            lengths=self.lengths + outcome.count,
            active=outcome.active.to(self.active.device) if ended else self.active,
            history=history,
            alive=outcome.alive,
        )
