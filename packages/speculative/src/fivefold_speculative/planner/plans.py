"""A plan: what every installed method offers, what it promises, and which one is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
from ..config import QUANTISED, AutoConfig
from ..draft_model import SHIPPED, DraftKind, DraftModel
from ..measuring import draft_fingerprint, remembered_acceptance
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
        link: bytes a second at which the target's layers come; `None`: they all stay.
    """

    offers: tuple[Offer, ...]
    chosen: int
    tried: dict[int, float] = field(default_factory=dict)
    link: float | None = None

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


def make_plan(session: Session, config: AutoConfig) -> tuple[Plan, Path | None]:
    """Plan for a session, or find the plan made for such a session before.

    Args:
        session: its model, batch, sampler and drafts count.
        config: which drafts and methods may be chosen, and how.

    Returns:
        The plan, and the file that remembers it; `None` where no cache folder can be written.

    Raises:
        UserError: a name is none of an installed method, or a draft that is named cannot be loaded.
    """
    methods = _methods(config.methods)
    drafts = _named_drafts(session, config)
    profile = MachineProfile(session, config)
    path = _path(profile, methods, drafts, session, config)
    plan = _read(path)
    if plan is None:
        session.say("planning: measuring passes and drafts on this machine (once)")
        plan = _planned(session, profile, methods, config)
        write(path, plan)
    return plan, path


def _named_drafts(session: Session, config: AutoConfig) -> dict[str, str]:
    """Load the drafts that the user named; return what each is, by name.

    A shipped draft may be missing: it is the default of every target.
    """
    found = {}
    for name in config.draft_names():
        if name != SHIPPED:
            try:
                found[name] = draft_fingerprint(_any_kind(session, config.source_of(name)))
            except UserError as error:
                raise error.located(config.draft_setting, name) from error
    return found


def _any_kind(session: Session, source: str) -> DraftModel:
    try:
        return session.load_draft(source, DraftKind.INDEPENDENT)
    except UserError as error:
        try:
            return session.load_draft(source, DraftKind.FEATURE_HEAD)
        except UserError:
            raise error from None


def _planned(
    session: Session, profile: MachineProfile, methods: Sequence[Method], config: AutoConfig
) -> Plan:
    offers: list[Offer] = []
    acceptance = _Acceptance(session, config)
    for method in methods:
        offers += [
            Offer(method.name, one.settings, one.nodes, one.expected_tokens, one.seconds)
            for one in _candidates(method, profile, acceptance, session.say)
        ]
    # Plain decoding comes last: a pass over one node is no dearer than any that was measured.
    offers = [Offer(PLAIN, {}, 1, 1.0, profile.plain), *offers]
    if len(offers) == 1:
        session.say(
            f"planning: nothing can draft for {session.model.name} here; name a draft by "
            f"{config.draft_setting}: a smaller model, a draft file, or {QUANTISED}"
        )
    seen = try_offers(session, offers, config.trials) if config.trials else {}
    for place, trial in seen.items():
        offers[place] = replace(
            offers[place],
            tried_tokens=trial.tokens,
            tried_seconds=trial.seconds,
        )
    tried = {place: trial.ratio for place, trial in seen.items()}
    promised = {place: one.promise / offers[0].promise for place, one in enumerate(offers)}
    ratios = tried or promised
    place = winner(seen) if seen else max(ratios, key=ratios.__getitem__)
    chosen = place if ratios[place] >= 1 + config.margin else 0
    return Plan(tuple(offers), chosen, tried, profile.link)


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
        return [] if offer is None else list(offer(profile, acceptance))
    except UserError:
        return []  # nothing of it suits this target
    except Exception as error:  # somebody else's code
        say(f"drafting={method.name} offers nothing: {type(error).__name__}: {error}")
        return []


class _Acceptance:
    """Acceptance vectors of a session's drafts (see `candidates.AcceptanceSource`)."""

    def __init__(self, session: Session, config: AutoConfig) -> None:
        self._session = session
        self._config = config

    def __call__(self, draft: str, kind: str, proposal: Proposal) -> AcceptanceVector | None:
        """Return what was measured of a draft before, or measure it."""
        session = self._session
        if type(session.model.tokenizer) is PreTrainedTokenizerBase:
            return AcceptanceVector(FALLBACK)  # no prompt can be read: inside `model.generate`
        try:
            loaded = session.load_draft(self._config.source_of(draft), DraftKind(kind))
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
    chosen = [
        method
        for name, method in known.items()
        if name not in (PLAIN, AUTO) and (not names or name in names)
    ]
    if not any(map(_may_offer, chosen)):
        raise UserError(
            "nothing of this can be planned: a planner asks methods with a draft model",
            setting="drafting.methods",
            value=",".join(names),
            remedy=f"add chain or another one, or choose drafting={names[0]} itself",
        )
    return chosen


def _may_offer(method: Method) -> bool:
    """Whether a method answers a planner; one that cannot be imported is reported later."""
    try:
        return hasattr(import_module(method.build.partition(":")[0]), "candidates")
    except Exception:  # somebody else's code
        return True


# -------------------------------------------------------------------------------------- remembering


def _path(
    profile: MachineProfile,
    methods: Sequence[Method],
    drafts: Mapping[str, str],
    session: Session,
    config: AutoConfig,
) -> Path | None:
    """Name a plan by everything it depends on; a penalty or a seed is nothing of it."""
    law = session.sampler.config
    cuts = [law.temperature, law.top_k, law.top_p, law.min_p]
    builds = sorted(method.build for method in methods)
    named = [config.draft_names(), sorted(drafts.items()), config.bits]
    choice = [config.margin, config.trials, STEADY]
    return note_path(_FOLDER, [profile.key, builds, named, cuts, choice])


def _read(path: Path | None) -> Plan | None:
    if path is None:
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        offers = tuple(Offer(**offer) for offer in record["offers"])
        tried = {int(place): float(ratio) for place, ratio in record["tried"].items()}
        plan = Plan(offers, record["chosen"], tried, record["link"])
        return plan if {plan.chosen, *tried} <= set(range(len(offers))) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged: made anew


def write(path: Path | None, plan: Plan) -> None:
    """Remember a plan, whole or not at all; a cache that cannot be written is no error."""
    record = {
        "chosen": plan.chosen,
        "link": plan.link,
        "tried": {str(place): ratio for place, ratio in plan.tried.items()},
        "offers": [asdict(offer) for offer in plan.offers],
    }
    write_note(path, record)
