"""Plain decoding: a tree with nothing but its root."""

from __future__ import annotations

from .._words import Proposal
from ..config import PlainConfig
from ..outcome import StepOutcome
from ..session import Session
from ..state import DecodeState
from ..topology import TreeTopology
from ..tree import TokenTree


class PlainDrafter:
    """Draft nothing: the target writes one token a pass."""

    proposal = Proposal.EMPTY
    needs_hidden = False

    def start(self, session: Session) -> None:
        """Nothing to read."""

    def propose(self, state: DecodeState) -> TokenTree:
        """Return the root alone."""
        return TokenTree.rooted(state.last_token, TreeTopology.root())

    def observe(self, outcome: StepOutcome) -> None:
        """Nothing to learn."""


def build(config: PlainConfig, session: Session) -> PlainDrafter:
    """Build `drafting=none`."""
    return PlainDrafter()
