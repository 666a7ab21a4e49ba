"""Trials: the best offers decode for real, beside plain decoding, before one of them is chosen.

What passes cost and how often a draft is right predicts a method within some tens of per cent, as
text, caches and the work between passes have their say. The choice is among a few, so they are
tried.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from fivefold import UserError
from transformers import PreTrainedTokenizerBase

from .._words import Rule
from ..choosing import choose
from ..corrector import NoCorrection
from ..decode import decode
from ..drafter import Drafter
from ..drafters.none import PlainDrafter
from ..prompt_sets import chat_prompts
from ..record import Request
from ..rules import rule_for
from ..session import Session
from .machine import CONTEXTS, context_of
from .offers import PLAIN, Offer

_MOST = 9
"""Offers that are tried."""
_OF_ONE_METHOD = 2
_FINALISTS = 3
"""Offers that are tried for as many rounds again."""
_HOPELESS = 0.8
"""Share of plain decoding's speed below which a promise is not worth a trial."""
STEADY = 0.75
"""Share of its rounds in which an offer has to be faster than plain decoding: a lead that only some
prompts show, or only the median, is the machine's noise as often as not."""
_SECONDS = 1.0
"""That plain decoding takes in a round, about."""
_TOKENS = (16, 48)
"""Fewest and most tokens a row in a round."""


@dataclass(frozen=True)
class Trial:
    """What an offer did.

    Args:
        tokens: of a row's step.
        seconds: of a step.
        ratio: tokens a second over plain decoding of the same prompts, the median over rounds.
        rounds: of it.
        faster: share of them in which it was faster than plain decoding.
    """

    tokens: float
    seconds: float
    ratio: float
    rounds: int
    faster: float


Steps = list[tuple[float, float]]
"""Tokens of a row's step and seconds of a step, one pair a round."""


def try_offers(session: Session, offers: Sequence[Offer], rounds: int) -> dict[int, Trial]:
    """Decode with the most promising offers and plainly, in turns.

    Args:
        session: its model, batch, sampler, attention and drafts are those tried.
        offers: plain decoding first.
        rounds: of all; the best three go on for as many again. Each decodes other built-in prompts.

    Returns:
        What was seen, by place; nothing where there is nothing to compare, or no prompt can be
        read (inside `model.generate`).
    """
    places = [0, *_promising(offers)]
    if len(places) == 1 or type(session.model.tokenizer) is PreTrainedTokenizerBase:
        return {}
    trials = _Trials(session, offers, rounds, {place: [] for place in places})
    beside = f"beside plain decoding, {rounds} rounds"
    session.say(f"planning: trying the {len(places) - 1} best offers {beside}")
    trials.run(range(rounds))
    trials.keep_best(_FINALISTS)
    session.say(f"planning: trying the {min(_FINALISTS, len(places) - 1)} best again {beside}")
    trials.run(range(rounds, 2 * rounds))
    return {place: _summed(found, trials.seen[0]) for place, found in trials.seen.items()}


def winner(seen: Mapping[int, Trial]) -> int:
    """Return the place of the fastest of those that were tried longest and mostly won.

    Plain decoding's where nobody did.
    """
    most = max(trial.rounds for trial in seen.values())
    steady = (
        place
        for place, trial in seen.items()
        if place == 0 or (trial.rounds == most and trial.faster >= STEADY)
    )
    return max(steady, key=lambda place: seen[place].ratio)


@dataclass
class _Trials:
    """What was seen so far of every offer, by place, and who is still in."""

    session: Session
    offers: Sequence[Offer]
    rounds: int
    seen: dict[int, Steps]
    out: set[int] = field(default_factory=set)

    def run(self, rounds: range) -> None:
        """Decode with everybody who is in, in turns; who fails is forgotten."""
        seconds = self.offers[0].seconds
        tokens = int(min(max(_SECONDS / seconds, _TOKENS[0]), _TOKENS[1]))
        for one in rounds:
            for place in [place for place in self.seen if place not in self.out]:
                offer = self.offers[place]
                try:
                    found = _decoded(self.session, offer, one, 2 * self.rounds, tokens)
                    self.seen[place].append(found)
                except UserError:
                    del self.seen[place]  # it cannot be built here after all
                except Exception as error:  # somebody else's code
                    why = f"{type(error).__name__}: {error}"
                    self.session.say(f"drafting={offer.method} failed: {why}")
                    del self.seen[place]

    def keep_best(self, count: int) -> None:
        """Leave plain decoding and the fastest in."""
        ratios = {place: _summed(found, self.seen[0]).ratio for place, found in self.seen.items()}
        order = sorted((place for place in ratios if place), key=lambda place: -ratios[place])
        self.out = set(order[count:])


def _promising(offers: Sequence[Offer]) -> list[int]:
    """Return the places of the offers to try: the best of each method, then others, best first."""
    least = _HOPELESS * offers[0].promise
    order = sorted(range(1, len(offers)), key=lambda place: -offers[place].promise)
    ranked: list[tuple[int, int]] = []  # how many of the same method are better, and the place
    for place in order:
        better = sum(offers[p].method == offers[place].method for _, p in ranked)
        if better < _OF_ONE_METHOD and offers[place].promise >= least:
            ranked.append((better, place))
    return [place for _, place in sorted(ranked, key=lambda entry: entry[0])][:_MOST]


def _decoded(own: Session, offer: Offer, one: int, rounds: int, tokens: int) -> tuple[float, float]:
    """Return the tokens of a row's step and the seconds of a step; prompts are not counted."""
    model = replace(own.model, eos_ids=())  # no text ends early
    shares = [(one + rounds * row) / (rounds * own.batch) for row in range(own.batch)]
    limit = min(4 * tokens, model.context_len // 4)
    requests = [Request(_prompt(own, share), limit, key=row) for row, share in enumerate(shares)]
    session = Session(
        model, requests, own.sampler, own.attention, text=False, load_draft=own.load_draft
    )
    drafter: Drafter = PlainDrafter()
    if offer.method != PLAIN:
        drafter = choose("drafting", offer.method, offer.settings).build(session)
    rule = rule_for(Rule.AUTO, drafter, session.sampler)
    steps = decode(session, drafter, rule, NoCorrection())
    next(steps)
    written, count = 0, 0
    begin = time.perf_counter()
    for outcome in steps:
        written += sum(map(len, outcome.new_tokens))
        count += 1
        if written >= tokens * own.batch:
            break
    return written / own.batch / max(count, 1), (time.perf_counter() - begin) / max(count, 1)


def _prompt(own: Session, share: float) -> list[int]:
    """Return a built-in prompt, behind others where the session's own are long.

    Args:
        own: the session that is planned for.
        share: of the prompts that stand before it.
    """
    prompts, length = chat_prompts("open"), context_of(own)
    place = int(share * len(prompts))
    tokens = own.model.encode(prompts[place].content)
    while length > CONTEXTS[0] and len(tokens) < length:
        place -= 1
        tokens = own.model.encode(prompts[place % len(prompts)].content) + tokens
    return tokens[-(own.model.context_len // 4) :]


def _summed(found: Steps, plain: Steps) -> Trial:
    ratios = [
        tokens / seconds * plain_seconds / plain_tokens
        for (tokens, seconds), (plain_tokens, plain_seconds) in zip(found, plain, strict=False)
    ]
    return Trial(
        tokens=sum(tokens for tokens, _ in found) / len(found),
        seconds=sum(seconds for _, seconds in found) / len(found),
        ratio=median(ratios),
        rounds=len(ratios),
        faster=sum(ratio > 1 for ratio in ratios) / len(ratios),
    )
