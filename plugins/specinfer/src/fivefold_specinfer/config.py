"""Settings of `drafting=specinfer`. Light: no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fivefold import UserError
from fivefold_speculative import DraftModelConfig, Proposal, TreeTopology

_ENTRY = "write a name (shipped, quantised, a file, a model), or {draft: NAME, temperature: 0.7}"


@dataclass(frozen=True)
class DraftEntry:
    """One of the drafts whose trees are merged.

    Args:
        draft: the user's name for it.
        temperature: of its law; `None`: the sampler's own.
    """

    draft: str
    temperature: float | None


@dataclass
class SpecInferConfig(DraftModelConfig):
    """Settings of `drafting=specinfer`."""

    drafts: list[Any] = field(default_factory=list)
    """Several drafts, whose trees are merged: names as in `draft`, or `{draft: NAME,
    temperature: 0.7}`; takes the place of `draft`. One may come twice, at two temperatures."""
    proposal: str = "auto"
    """How children are chosen: `topk` or `sampled`; `auto` takes the most probable ones under
    greedy decoding, and else draws them, each independently."""
    widths: list[int] = field(default_factory=lambda: [1, 1, 3, 1, 1, 1, 1, 1])
    """Children of every node of a draft's tree, level by level."""
    max_verify_tokens: int | None = None
    """Most nodes that a pass of the target verifies in all requests of a batch together, roots
    included, so more than there are requests; null: no such limit. Each request gets the nodes
    that are likeliest to be reached."""

    def __post_init__(self) -> None:
        """Check words and ranges."""
        super().__post_init__()
        if self.proposal == "without_replacement":
            raise UserError(
                "multi-step sampling judges draws with replacement",
                setting="drafting.proposal",
                value=self.proposal,
                remedy="choose topk or sampled, or drafting=expansion, which draws without",
            )
        self.check_budget(1)
        if not self.widths:
            raise UserError(
                "a tree with nothing but a root drafts nothing",
                setting="drafting.widths",
                remedy="give it a level, or choose drafting=none",
            )
        self.shape()

    def check_budget(self, batch: int) -> None:
        """Refuse a budget that the roots of a batch use up.

        Args:
            batch: its requests.

        Raises:
            UserError: names `drafting.max_verify_tokens`.
        """
        if self.max_verify_tokens is not None and self.max_verify_tokens <= batch:
            roots = "the root of a tree takes" if batch == 1 else f"the roots of {batch} trees take"
            raise UserError(
                f"{roots} as many nodes, and nothing drafted would be verified",
                setting="drafting.max_verify_tokens",
                value=self.max_verify_tokens,
                remedy=f"give {batch + 1} or more, or null for no limit",
            )

    def shape(self) -> TreeTopology:
        """Return the tree that each draft fills."""
        return TreeTopology.expansion(self.widths)

    @property
    def shape_setting(self) -> str:
        """The setting that says what tree is drafted, for errors."""
        return "drafting.widths"

    def draft_names(self) -> list[str]:
        """Return the user's names of all drafts."""
        return [entry.draft for entry in self.entries()]

    def entries(self) -> list[DraftEntry]:
        """Return the drafts, `draft` where `drafts` names none.

        Raises:
            UserError: an entry that is neither a name nor a mapping with one.
        """
        if not self.drafts:
            return [DraftEntry(self.draft, self.temperature)]
        return [self._entry(entry) for entry in self.drafts]

    def chosen_proposal(self, greedy: bool) -> Proposal:
        """Return how children come about, `auto` resolved.

        Args:
            greedy: whether the target's sampler takes the argmax.
        """
        if self.proposal == "auto":
            return Proposal.POINT_MASS if greedy else Proposal.SAMPLED
        return super().chosen_proposal(greedy)

    def _entry(self, entry: object) -> DraftEntry:
        given = {"draft": entry} if isinstance(entry, str) else entry
        if not isinstance(given, dict) or not set(given) <= {"draft", "temperature"}:
            raise _no_draft(entry)
        draft, temperature = given.get("draft"), given.get("temperature", self.temperature)
        if not isinstance(draft, str) or not draft:
            raise _no_draft(entry)
        if temperature is None:
            return DraftEntry(draft, None)
        if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
            raise UserError(
                "a draft law needs a temperature above 0",
                setting="drafting.drafts",
                value=entry,
                remedy="leave it out, or set drafting.proposal=topk for a greedy draft",
            )
        return DraftEntry(draft, float(temperature))


def _no_draft(entry: object) -> UserError:
    return UserError("this names no draft", setting="drafting.drafts", value=[entry], remedy=_ENTRY)
