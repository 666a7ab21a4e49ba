"""Settings of the methods this package brings. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fivefold import UserError

from ._words import Proposal
from .topology import TreeTopology

QUANTISED = "quantised"
"""Names the copy of the target in fewer bits."""
BITS = 6
"""Bits of a number in it, if nobody says how many."""
_PROPOSALS = {
    "topk": Proposal.POINT_MASS,
    "sampled": Proposal.SAMPLED,
    "without_replacement": Proposal.WITHOUT_REPLACEMENT,
}


@dataclass
class PlainConfig:
    """Settings of `drafting=none`: there are none."""

    def proposals(self, greedy: bool) -> frozenset[Proposal]:
        """Return the kinds of proposal made with these settings."""
        return frozenset({Proposal.EMPTY})


@dataclass
class NoCorrectionConfig:
    """Settings of `correction=none`: there are none."""


@dataclass
class PromptLookupConfig:
    """Settings of `drafting=prompt_lookup`."""

    num_tokens: int = 10
    """Tokens drafted a step."""
    max_ngram: int = 3
    """Longest run of newest tokens looked for in the text so far; longer matches are preferred."""
    min_ngram: int = 1
    """Shortest run whose continuation is still drafted."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least_one(self.num_tokens, "drafting.num_tokens")
        _at_least_one(self.min_ngram, "drafting.min_ngram")
        if self.max_ngram < self.min_ngram:
            raise UserError(
                f"the longest run is shorter than the shortest ({self.min_ngram})",
                setting="drafting.max_ngram",
                value=self.max_ngram,
                remedy="raise it or lower drafting.min_ngram",
            )

    def proposals(self, greedy: bool) -> frozenset[Proposal]:
        """Return the kinds of proposal made with these settings."""
        return frozenset({Proposal.POINT_MASS})


@dataclass
class DraftModelConfig:
    """What every method with a draft model sets."""

    draft: str = "shipped"
    """Draft model: a hub id, a folder, a draft file (`.safetensors`) made for the target,
    `shipped` for the one this package carries, or `quantised` for a copy of the target in fewer
    bits."""
    bits: int = BITS
    """Bits of a number in `draft=quantised`, from 2 to 8; errors below 5 are made up for. No other
    draft has any."""
    proposal: str = "auto"
    """How children are chosen: `topk`, `sampled`, `without_replacement`; `auto` takes the most
    probable ones under greedy decoding, and else draws them, in a tree without replacement."""
    temperature: float | None = None
    """Temperature of the draft law; null: the sampler's own (1 if that is greedy)."""

    def __post_init__(self) -> None:
        """Check words and ranges."""
        if not self.draft:
            raise UserError(
                "no draft model is named",
                setting="drafting.draft",
                remedy="give a hub id, a folder, a draft file, or shipped",
            )
        check_bits(self.bits, self.draft_names())
        if self.proposal not in ("auto", *_PROPOSALS):
            raise UserError(
                "unknown way to choose children",
                setting="drafting.proposal",
                value=self.proposal,
                remedy=f"choose one of auto, {', '.join(_PROPOSALS)}",
            )
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(
                "a draft law needs a temperature above 0",
                setting="drafting.temperature",
                value=self.temperature,
                remedy="leave it out, or set drafting.proposal=topk for a greedy draft",
            )

    @property
    def shape_setting(self) -> str:
        """The setting that says what tree is drafted, for errors."""
        return "drafting"

    def draft_names(self) -> list[str]:
        """Return the user's names of all drafts."""
        return [self.draft]

    @property
    def source(self) -> str:
        """What a session's `load_draft` is asked for."""
        return self.source_of(self.draft)

    def source_of(self, draft: str) -> str:
        """Return what a session's `load_draft` is asked for when the user names a draft so."""
        return draft_source(draft, self.bits)

    def chosen_proposal(self, greedy: bool) -> Proposal:
        """Return how children come about, `auto` resolved.

        Args:
            greedy: whether the target's sampler takes the argmax.
        """
        if self.proposal != "auto":
            return _PROPOSALS[self.proposal]
        if greedy:
            return Proposal.POINT_MASS
        # For one child both ways of drawing are the same law; the race costs more.
        return Proposal.SAMPLED if self.shape().is_chain else Proposal.WITHOUT_REPLACEMENT

    def shape(self) -> TreeTopology:
        """Return the tree that is drafted."""
        raise NotImplementedError

    def proposals(self, greedy: bool) -> frozenset[Proposal]:
        """Return the kinds of proposal made with these settings."""
        return frozenset({self.chosen_proposal(greedy)})


@dataclass
class ChainConfig(DraftModelConfig):
    """Settings of `drafting=chain`."""

    length: int = 4
    """Tokens drafted a step."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        _at_least_one(self.length, self.shape_setting)

    @property
    def shape_setting(self) -> str:
        """The setting that says what tree is drafted, for errors."""
        return "drafting.length"

    def shape(self) -> TreeTopology:
        """Return the chain as a tree."""
        return TreeTopology.chain(self.length)


@dataclass
class ExpansionConfig(DraftModelConfig):
    """Settings of `drafting=expansion`."""

    widths: list[int] = field(default_factory=lambda: [4, 2, 1])
    """Children of every node, level by level."""
    topology: str = ""
    """JSON file of a static tree, `{"parents": [-1, 0, …]}`, or the name of a shipped one; takes
    the place of `widths`."""

    def __post_init__(self) -> None:
        """Check that there is a tree."""
        super().__post_init__()
        self.shape()

    @property
    def shape_setting(self) -> str:
        """The setting that says what tree is drafted, for errors."""
        return "drafting.topology" if self.topology else "drafting.widths"

    def shape(self) -> TreeTopology:
        """Return the tree.

        Raises:
            UserError: widths or file hold no tree, or nothing but a root.
        """
        if self.topology:
            shape = TreeTopology.find(self.topology)
        else:
            shape = TreeTopology.expansion(self.widths)
        if shape.num_nodes == 1:
            raise UserError(
                "a tree with nothing but a root drafts nothing",
                setting=self.shape_setting,
                remedy="give it a level, or choose drafting=none",
            )
        return shape


@dataclass
class FeatureHeadConfig(ExpansionConfig):
    """Settings of `drafting=feature_head`."""

    draft: str = "shipped"
    """Draft file (`.safetensors`) made for the target, or `shipped` for the one this package
    carries for SmolLM2."""
    widths: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    """Children of every node, level by level; all 1: a chain."""


@dataclass
class AutoConfig:
    """Settings of `drafting=auto`."""

    draft: str = "shipped"
    """Draft that methods may use: `shipped` for those this package carries, `quantised`, a hub id,
    a folder or a draft file, as in the methods themselves."""
    bits: int = BITS
    """Bits of a number in `quantised`."""
    drafts: list[str] = field(default_factory=list)
    """Several drafts to choose among, each as in `draft`, whose place they take."""
    methods: list[str] = field(default_factory=list)
    """Methods that may be chosen; empty: all that are installed."""
    margin: float = 0.03
    """By which share a method must be faster than plain decoding to be chosen."""
    trials: int = 3
    """Rounds in which the most promising methods decode beside plain decoding before one is chosen;
    0: what was predicted decides alone."""
    adapts: bool = True
    """Go on plainly where drafting turns out not to pay; else the plan is kept to."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        names = self.draft_names()
        if not all(names):
            raise UserError(
                "no draft model is named",
                setting=self.draft_setting,
                remedy="give a hub id, a folder, a draft file, shipped or quantised",
            )
        check_bits(self.bits, names)
        if not 0 <= self.margin < 10:
            raise UserError(
                "not a share of speed",
                setting="drafting.margin",
                value=self.margin,
                remedy="give 0 or more, such as 0.03",
            )
        if not 0 <= self.trials <= 100:
            raise UserError(
                "no number of rounds",
                setting="drafting.trials",
                value=self.trials,
                remedy="give 0 (none) or more, such as 3",
            )

    def proposals(self, greedy: bool) -> frozenset[Proposal]:
        """Return what is surely made; the planned method is checked when it is built."""
        return frozenset({Proposal.EMPTY})

    def draft_names(self) -> list[str]:
        """Return the user's names of all drafts, each once."""
        return list(dict.fromkeys(self.drafts or [self.draft]))

    @property
    def draft_setting(self) -> str:
        """The setting that names the drafts, for errors."""
        return "drafting.drafts" if self.drafts else "drafting.draft"

    def source_of(self, draft: str) -> str:
        """Return what a session's `load_draft` is asked for when the user names a draft so."""
        return draft_source(draft, self.bits)

    def settings_of(self, draft: str) -> dict[str, Any]:
        """Return the settings by which a method takes a draft; none where it is the default."""
        settings: dict[str, Any] = {} if draft == DraftModelConfig.draft else {"draft": draft}
        if draft == QUANTISED and self.bits != BITS:
            settings["bits"] = self.bits
        return settings


def draft_source(draft: str, bits: int) -> str:
    """Return what a session's `load_draft` is asked for.

    Args:
        draft: the user's name of the draft.
        bits: of a number in a copy of the target.
    """
    return f"{QUANTISED}:{bits}" if draft == QUANTISED else draft


def check_bits(bits: int, drafts: Sequence[str]) -> None:
    """Refuse bits that no copy of a target can have, or that no draft would use.

    Args:
        bits: of a number.
        drafts: the user's names of the drafts.

    Raises:
        UserError: names `drafting.bits`.
    """
    problem, remedy = "", ""
    if not 2 <= bits <= 8:
        problem, remedy = "no such number of bits", "give 2 to 8"
    elif bits != BITS and QUANTISED not in drafts:
        problem = f"bits of a copy of the target, and the draft is {', '.join(drafts)}"
        remedy = f"set drafting.draft={QUANTISED}, or leave it out"
    if problem:
        raise UserError(problem, setting="drafting.bits", value=bits, remedy=remedy)


def _at_least_one(value: int, setting: str) -> None:
    if value < 1:
        raise UserError("a count below 1", setting=setting, value=value, remedy="give 1 or more")
