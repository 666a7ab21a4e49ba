"""The drafting protocol: what `drafting=NAME` builds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ._words import Proposal
from .outcome import StepOutcome
from .session import Session
from .state import DecodeState
from .tree import TokenTree


@runtime_checkable
class Drafter(Protocol):
    """Proposes a token tree for every row, step after step.

    The width at a node must not depend on the tokens drawn there, siblings stay in the order in
    which they were drawn, and noise comes from the state alone: only then is the rule that goes
    with `proposal` lossless.
    """

    @property
    def proposal(self) -> Proposal:
        """How children come about: decides which acceptance rules are lossless."""
        ...

    @property
    def needs_hidden(self) -> bool:
        """Whether outcomes must carry the target's last hidden states."""
        ...

    def start(self, session: Session) -> None:
        """Read the prompts. Called after the target's prefill; again when a session goes on.

        Args:
            session: its `tokens` are the prompts, `reused` says how much of them an earlier call
                of this drafter has seen, `prompt_hidden` holds features of the rest.
        """
        ...

    def propose(self, state: DecodeState) -> TokenTree:
        """Return one tree a row, rooted at the last committed token.

        Args:
            state: committed tokens, lengths and noise.
        """
        ...

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what stood; called once a step, before the state moves on."""
        ...
