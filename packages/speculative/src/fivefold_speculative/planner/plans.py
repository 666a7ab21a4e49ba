"""A plan: what every installed method offers, what it promises, and which one is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from fivefold import Method, UserError
from fivefold.discovery import installed
from transformers import PreTrainedTokenizerBase

from .._words import Proposal
from ..acceptance import FALLBACK, AcceptanceVector
from ..candidates import Candidate
from ..draft_model import DraftKind
from ..measuring import remembered_acceptance
from ..session import Session
from ..task_configs import TASKS, check_methods
from .machine import MachineProfile
from .notes import note_path, write_note
from .offers import AUTO, PLAIN, Offer
from .trials import STEADY, try_offers, winner

_FOLDER = "plans"


@dataclass(frozen=True)
class Plan:
    """What is offered, plain decoding first, and what is chosen.

    Args:
        offers: of all methods.
        chosen: place of the best one that is worth it; 0: plain decoding.
        tried: by place, tokens a second over plain decoding in a trial; empty: none was made.
    """

    offers: tuple[Offer, ...]
    chosen: int
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> Offer:
        """What is chosen."""
        return self.offers[self.chosen]

    @property
    def plain(self) -> Offer:
        """Plain decoding."""
        return self.offers[0]

    def ratio(self, offer: Offer) -> float:
        """Return the tokens a second promised by an offer over those of plain decoding."""
        return offer.promise / self.plain.promise

    def after(self, place: int, measured: float) -> Plan:
        """Return the plan with what an offer has really done."""
        offers = list(self.offers)
        offers[place] = replace(offers[place], measured=measured)
        return replace(self, offers=tuple(offers))


def make_plan(
    session: Session, names: Sequence[str], margin: float, trials: int
) -> tuple[Plan, Path | None]:
    """Plan for a session, or find the plan made for such a session before.

    Args:
        session: its model, batch, sampler and drafts count.
        names: methods that may be chosen; none: all that are installed.
        margin: by which share a method must be faster than plain decoding.
        trials: rounds in which the best offers are tried; 0: predictions alone decide.

    Returns:
        The plan, and the file that remembers it; `None` where no cache folder can be written.

    Raises:
        UserError: a name is none of an installed method.
    """
    methods = _methods(names)
    profile = MachineProfile(session)
    path = _path(profile, methods, session, (margin, trials))
    plan = _read(path)
    if plan is None:
        session.say("planning: measuring passes and drafts on this machine (once)")
        plan = _planned(session, profile, methods, margin, trials)
        write(path, plan)
    return plan, path


def _planned(
    session: Session,
    profile: MachineProfile,
    methods: Sequence[Method],
    margin: float,
    trials: int,
) -> Plan:
    offers = [Offer(PLAIN, {}, 1, 1.0, profile.plain)]
    acceptance = _Acceptance(session)
    for method in methods:
        offers += [
            Offer(method.name, one.settings, one.nodes, one.expected_tokens, one.seconds)
            for one in _candidates(method, profile, acceptance, session.say)
        ]
    seen = try_offers(session, offers, trials) if trials else {}
    for place, trial in seen.items():
        offers[place] = replace(
            offers[place],
            measured=session.batch * trial.tokens / trial.seconds,
            tried_tokens=trial.tokens,
            tried_seconds=trial.seconds,
        )
    tried = {place: trial.ratio for place, trial in seen.items()}
    promised = {place: one.promise / offers[0].promise for place, one in enumerate(offers)}
    ratios = tried or promised
    place = winner(seen) if seen else max(ratios, key=ratios.__getitem__)
    return Plan(tuple(offers), place if ratios[place] >= 1 + margin else 0, tried)


def _candidates(
    method: Method,
    profile: MachineProfile,
    acceptance: _Acceptance,
    say: Callable[[str], None],
) -> Sequence[Candidate]:
    """Ask one method; a wheel that fails takes no other down."""
    try:
        module = import_module(method.build.partition(":")[0])
        offer = getattr(module, "candidates", None)
        if offer is None:
            say(f"drafting={method.name} offers nothing that could be planned")
            return []
        return list(offer(profile, acceptance))
    except UserError:
        return []  # nothing of it suits this target
    except Exception as error:  # somebody else's code
        say(f"drafting={method.name} offers nothing: {type(error).__name__}: {error}")
        return []


class _Acceptance:
    """Acceptance vectors of a session's drafts (see `candidates.AcceptanceSource`)."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, draft: str, kind: str, proposal: Proposal) -> AcceptanceVector | None:
        """Return what was measured of a draft before, or measure it."""
        session = self._session
        if type(session.model.tokenizer) is PreTrainedTokenizerBase:
            return AcceptanceVector(FALLBACK)  # no prompt can be read: inside `model.generate`
        try:
            loaded = session.load_draft(draft, DraftKind(kind))
        except UserError:
            return None
        return remembered_acceptance(
            session.model,
            loaded,
            session.sampler,
            proposal,
            attention=session.attention,
            say=session.say,
        )


def _methods(names: Sequence[str]) -> list[Method]:
    task = TASKS[0]
    known = installed().methods(task, "drafting")
    check_methods(names, partial(installed().method, task, "drafting"))
    return [
        method
        for name, method in known.items()
        if name not in (PLAIN, AUTO) and (not names or name in names)
    ]


# -------------------------------------------------------------------------------------- remembering


def _path(
    profile: MachineProfile,
    methods: Sequence[Method],
    session: Session,
    choice: tuple[float, int],
) -> Path | None:
    """Name a plan by everything it depends on; a penalty or a seed is nothing of it."""
    config = session.sampler.config
    cuts = [config.temperature, config.top_k, config.top_p, config.min_p]
    builds = sorted(method.build for method in methods)
    return note_path(_FOLDER, [profile.key, builds, cuts, choice, STEADY])


def _read(path: Path | None) -> Plan | None:
    if path is None:
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        offers = tuple(Offer(**offer) for offer in record["offers"])
        tried = {int(place): float(ratio) for place, ratio in record["tried"].items()}
        plan = Plan(offers, record["chosen"], tried)
        return plan if {plan.chosen, *tried} <= set(range(len(offers))) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged: made anew


def write(path: Path | None, plan: Plan) -> None:
    """Remember a plan, whole or not at all; a cache that cannot be written is no error."""
    record = {
        "chosen": plan.chosen,
        "tried": {str(place): ratio for place, ratio in plan.tried.items()},
        "offers": [asdict(offer) for offer in plan.offers],
    }
    write_note(path, record)
