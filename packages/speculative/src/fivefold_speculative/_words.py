"""The words of speculative decoding: kinds of proposal, acceptance rules, and which go together.

This module is light (no torch): a pair that is not lossless is refused before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from fivefold import UserError


class Proposal(StrEnum):
    """How the children of a node came about: what an acceptance rule has to know of them."""

    EMPTY = "empty"
    """There are none: plain decoding."""
    POINT_MASS = "point_mass"
    """Chosen without chance (looked up, or the draft's top k)."""
    SAMPLED = "sampled"
    """Drawn independently from the draft law; the same token may come twice."""
    WITHOUT_REPLACEMENT = "without_replacement"
    """Drawn one after another from the draft law, never the same token twice."""


class Rule(StrEnum):
    """Which acceptance rule decides how much of a tree stands."""

    AUTO = "auto"
    """The rule that accepts most among those valid for the proposal and the sampler."""
    GREEDY = "greedy"
    """The child that equals the target's argmax; for greedy sampling only."""
    LOOKUP = "lookup"
    """Draw the target's token as plain sampling does; a child that equals it stands."""
    POINT_MASS = "point_mass"
    """Try the children in order, each with its target probability in what is left."""
    MULTI_STEP = "multi_step"
    """Multi-step speculative sampling (SpecInfer): p/q per draw, residual after each."""
    WITHOUT_REPLACEMENT = "without_replacement"
    """Sequoia's rule: p/q per draw, tried tokens leave the draft law."""


_ALL = frozenset(Proposal)

VALID_FOR: dict[Rule, frozenset[Proposal]] = {
    Rule.GREEDY: _ALL,
    Rule.LOOKUP: _ALL,
    Rule.POINT_MASS: frozenset({Proposal.POINT_MASS, Proposal.EMPTY}),
    Rule.MULTI_STEP: frozenset({Proposal.SAMPLED, Proposal.EMPTY}),
    Rule.WITHOUT_REPLACEMENT: frozenset({Proposal.WITHOUT_REPLACEMENT, Proposal.EMPTY}),
}
"""The proposals under which a rule leaves the text's law the target's own."""

_BEST: dict[Proposal, Rule] = {
    Proposal.EMPTY: Rule.LOOKUP,
    Proposal.POINT_MASS: Rule.LOOKUP,
    Proposal.SAMPLED: Rule.MULTI_STEP,
    Proposal.WITHOUT_REPLACEMENT: Rule.WITHOUT_REPLACEMENT,
}


def choose_rule(rule: Rule | str, proposal: Proposal, greedy: bool) -> Rule:
    """Return the rule that `rule` means for this proposal; `auto` is resolved here.

    Args:
        rule: the user's word.
        proposal: how the drafter makes children.
        greedy: whether the sampler takes the argmax (temperature 0).

    Raises:
        UserError: the rule would not be lossless for this proposal or sampler.
    """
    check_rule(rule, {proposal}, greedy)
    if Rule(rule) is not Rule.AUTO:
        return Rule(rule)
    return Rule.GREEDY if greedy else _BEST[proposal]


def check_rule(rule: Rule | str, proposals: Collection[str], greedy: bool) -> None:
    """Refuse a rule under which the text would not follow the target's law.

    Args:
        rule: the user's word.
        proposals: the kinds of proposal that the drafting method may make with its settings.
        greedy: whether the sampler takes the argmax (temperature 0).

    Raises:
        UserError: unknown rule, `greedy` with sampling, or no proposal that the rule is valid for.
    """
    if rule not in list(Rule):
        raise UserError(
            "unknown acceptance rule",
            setting="rule",
            value=str(rule),
            remedy=f"choose one of {', '.join(Rule)}",
        )
    word = Rule(rule)
    if word is Rule.AUTO:
        return
    if word is Rule.GREEDY and not greedy:
        raise UserError(
            "the greedy rule would ignore the temperature",
            setting="rule",
            value=str(word),
            remedy="set sampling.temperature=0 or rule=auto",
        )
    if VALID_FOR[word].isdisjoint(proposals):
        made = ", ".join(sorted(map(str, proposals))) or "none that is known"
        valid = ", ".join(sorted(VALID_FOR[word] - {Proposal.EMPTY}))
        raise UserError(
            f"this rule is lossless for {valid} proposals, and the drafting method makes {made}",
            setting="rule",
            value=str(word),
            remedy="set rule=auto, or another drafting.proposal where the method has one",
        )


def proposals_of(settings: object, provides: Collection[str], greedy: bool) -> frozenset[str]:
    """Return the proposals a method makes with these settings.

    A settings class may narrow what its method provides with a method
    `proposals(greedy: bool) -> frozenset[Proposal]`; without one, all of `provides` counts.
    """
    narrow = getattr(settings, "proposals", None)
    return frozenset(narrow(greedy)) if callable(narrow) else frozenset(provides)
