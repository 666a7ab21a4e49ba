"""A plan: what every installed method offers, what it promises, and which one is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fivefold import Method, UserError
from fivefold.discovery import installed
from transformers import PreTrainedTokenizerBase

from .._words import Proposal
from ..acceptance import FALLBACK, AcceptanceVector
from ..candidates import Candidate
from ..draft_model import DraftKind
from ..measuring import remembered_acceptance
from ..session import Session
from ..task_configs import TASKS
from .machine import MachineProfile
from .notes import note_path, write_note

PLAIN = "none"
AUTO = "auto"
_FOLDER = "plans"


@dataclass(frozen=True)
class Offer:
    """A method with settings, and what it promises.

    Args:
        method: its name.
        settings: by field.
        nodes: of a tree, the root included.
        expected_tokens: of a step.
        seconds: of a step.
        measured: tokens a second of all rows when it last ran; 0: it never did.
    """

    method: str
    settings: dict[str, Any]
    nodes: int
    expected_tokens: float
    seconds: float
    measured: float = 0.0

    @property
    def rate(self) -> float:
        """Expected tokens a second of one row."""
        return self.expected_tokens / self.seconds

    @property
    def label(self) -> str:
        """The method with its settings, as a person reads it."""
        said = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.method} ({said})" if said else self.method


@dataclass(frozen=True)
class Plan:
    """What is offered, plain decoding first, and what is chosen.

    Args:
        offers: of all methods.
        chosen: place of the best one that is worth it; 0: plain decoding.
    """

    offers: tuple[Offer, ...]
    chosen: int

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
        return offer.rate / self.plain.rate

    def after(self, place: int, measured: float) -> Plan:
        """Return the plan with what an offer has really done."""
        offers = list(self.offers)
        offers[place] = replace(offers[place], measured=measured)
        return Plan(tuple(offers), self.chosen)


def make_plan(session: Session, names: Sequence[str], margin: float) -> tuple[Plan, Path | None]:
    """Plan for a session, or find the plan made for such a session before.

    Args:
        session: its model, batch, sampler and drafts count.
        names: methods that may be chosen; none: all that are installed.
        margin: by which share a method must promise to be faster than plain decoding.

    Returns:
        The plan, and the file that remembers it; `None` where no cache folder can be written.

    Raises:
        UserError: a name is none of an installed method.
    """
    methods = _methods(names)
    profile = MachineProfile(session)
    path = _path(profile, methods, session, margin)
    plan = _read(path)
    if plan is None:
        session.say("planning: measuring passes and drafts on this machine (once)")
        plan = _planned(session, profile, methods, margin)
        write(path, plan)
    return plan, path


def _planned(
    session: Session, profile: MachineProfile, methods: Sequence[Method], margin: float
) -> Plan:
    offers = [Offer(PLAIN, {}, 1, 1.0, profile.plain)]
    acceptance = _Acceptance(session)
    for method in methods:
        offers += [
            Offer(method.name, one.settings, one.nodes, one.expected_tokens, one.seconds)
            for one in _candidates(method, profile, acceptance, session.say)
        ]
    place = max(range(len(offers)), key=lambda place: offers[place].rate)
    is_worth_it = offers[place].rate >= offers[0].rate * (1 + margin)
    return Plan(tuple(offers), place if is_worth_it else 0)


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
    for name in names:
        try:
            installed().method(task, "drafting", name)
        except UserError as error:
            raise UserError(
                error.problem, setting="drafting.methods", value=name, remedy=error.remedy
            ) from error
    return [
        method
        for name, method in known.items()
        if name not in (PLAIN, AUTO) and (not names or name in names)
    ]


# -------------------------------------------------------------------------------------- remembering


def _path(
    profile: MachineProfile, methods: Sequence[Method], session: Session, margin: float
) -> Path | None:
    """Name a plan by everything it depends on; a penalty or a seed is nothing of it."""
    config = session.sampler.config
    cuts = [config.temperature, config.top_k, config.top_p, config.min_p]
    builds = sorted(method.build for method in methods)
    return note_path(_FOLDER, [profile.key, builds, cuts, margin])


def _read(path: Path | None) -> Plan | None:
    if path is None:
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        offers = tuple(Offer(**offer) for offer in record["offers"])
        return Plan(offers, record["chosen"]) if 0 <= record["chosen"] < len(offers) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or damaged: made anew


def write(path: Path | None, plan: Plan) -> None:
    """Remember a plan, whole or not at all; a cache that cannot be written is no error."""
    record = {"chosen": plan.chosen, "offers": [asdict(offer) for offer in plan.offers]}
    write_note(path, record)
