"""A chain of a smaller model's tokens: the tree of widths 1, and what it offers the planner."""

from __future__ import annotations

from .._words import Proposal
from ..acceptance import AcceptanceVector
from ..candidates import AcceptanceSource, Candidate, Profile, step_seconds
from ..draft_model import DraftKind
from ..topology import TreeTopology
from .model_tree import build

__all__ = ["build", "candidates", "chains"]

_LENGTHS = (1, 2, 3, 4, 5, 6, 8)


def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]:
    """Offer chains of some lengths of each draft (arXiv 2211.17192, section 3.3)."""
    kind = DraftKind.INDEPENDENT
    found = []
    for draft, named in profile.drafts.items():
        vector = acceptance(draft, kind, chain_proposal(profile))
        if vector is not None:
            found += [
                Candidate({**named, "length": length}, tokens, seconds, length + 1)
                for length, tokens, seconds in chains(profile, vector, draft, kind)
            ]
    return found


def chain_proposal(profile: Profile) -> Proposal:
    """Return how a chain's tokens come about."""
    return Proposal.POINT_MASS if profile.greedy else Proposal.SAMPLED


def chains(
    profile: Profile, vector: AcceptanceVector, draft: str, kind: DraftKind
) -> list[tuple[int, float, float]]:
    """Return length, expected tokens and seconds of a step of some chains."""
    found = []
    for length in _LENGTHS:
        chain = TreeTopology.chain(length)
        if chain.num_nodes <= profile.max_nodes:
            seconds = step_seconds(profile, chain, draft, kind)
            found.append((length, vector.expected_tokens(chain), seconds))
    return found
