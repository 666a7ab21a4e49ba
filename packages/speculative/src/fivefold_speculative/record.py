"""Requests and their answers on the host: tokens, text, why they ended, and figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from .outcome import TokenLogprob


@dataclass(frozen=True)
class Request:
    """One text to continue.

    Args:
        tokens: the prompt.
        max_new_tokens: most tokens to write.
        stop: texts that end the answer; it is cut before the first of them.
        id: the user's name for it, used in messages.
        key: its number in the random stream; rows of one number and seed draw the same noise.
    """

    tokens: list[int]
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    id: str = ""
    key: int = 0


@dataclass
class Record:
    """An answer as far as it is written, with AIPerf's names for its figures.

    Args:
        id: the request's.
        prompt_len: tokens of the prompt.
        tokens: new tokens, EOS included.
        text: their text, if the session makes text; without the stop string.
        finish_reason: `eos`, `stop`, `length`, `context` or `cancelled`; empty while it is written.
        logprobs: one a token, if the session records them.
        num_spec_steps: target passes.
        num_draft_tokens: nodes proposed, roots not counted.
        num_accepted_draft_tokens: new tokens that a pass gave beyond its one.
        acceptance_histogram: passes by the number of draft tokens kept.
    """

    id: str
    prompt_len: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)

    @property
    def mean_acceptance_length(self) -> float:
        """New tokens a target pass."""
        return 1 + self.num_accepted_draft_tokens / max(self.num_spec_steps, 1)

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Share of the proposed nodes that were kept; `None` where nothing was proposed."""
        if not self.num_draft_tokens:
            return None
        return self.num_accepted_draft_tokens / self.num_draft_tokens

    def count_step(self, kept: int, drafted: int) -> None:
        """Count one target pass that proposed `drafted` nodes and gave `kept` tokens."""
        accepted = max(kept - 1, 0)
        self.num_spec_steps += 1
        self.num_draft_tokens += drafted
        self.num_accepted_draft_tokens += accepted
        missing = accepted + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram.extend([0] * missing)
        self.acceptance_histogram[accepted] += 1

    def metrics(self) -> dict[str, int | float | list[int] | None]:
        """Return the figures by name."""
        return {
            "num_spec_steps": self.num_spec_steps,
            "num_draft_tokens": self.num_draft_tokens,
            "num_accepted_draft_tokens": self.num_accepted_draft_tokens,
            "mean_acceptance_length": self.mean_acceptance_length,
            "draft_acceptance_rate": self.draft_acceptance_rate,
            "acceptance_histogram": list(self.acceptance_histogram),
        }
