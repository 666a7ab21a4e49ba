"""Fivefold's decoding engine: token trees, acceptance rules, one loop, and the tasks that run it.

Names are imported when they are first used, so that `import fivefold_speculative` needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._words import Proposal, Rule, check_rule
    from .acceptance import AcceptanceVector
    from .answers import Answer
    from .api import Settings, generate, stream
    from .candidates import AcceptanceSource, Candidate, Profile, step_seconds
    from .config import DraftModelConfig
    from .corrector import Corrector, NoCorrection
    from .decode import decode
    from .draft_model import DraftKind, DraftLoader, DraftModel
    from .drafter import Drafter
    from .hf import FivefoldOutput, fivefold_generate
    from .measuring import measure_acceptance, measure_online, own_texts, remembered_acceptance
    from .outcome import Accepted, StepOutcome, TokenLogprob
    from .ranked import RankedAcceptance
    from .record import Record, Request
    from .rules import AcceptanceRule, rule_for
    from .session import Session
    from .state import DecodeState
    from .topology import TreeTopology
    from .tree import DraftLaw, TokenTree

_HOMES = {
    "_words": ("Proposal", "Rule", "check_rule"),
    "acceptance": ("AcceptanceVector",),
    "answers": ("Answer",),
    "api": ("Settings", "generate", "stream"),
    "candidates": ("AcceptanceSource", "Candidate", "Profile", "step_seconds"),
    "config": ("DraftModelConfig",),
    "corrector": ("Corrector", "NoCorrection"),
    "decode": ("decode",),
    "draft_model": ("DraftKind", "DraftLoader", "DraftModel"),
    "drafter": ("Drafter",),
    "hf": ("FivefoldOutput", "fivefold_generate"),
    "measuring": (
        "measure_acceptance",
        "measure_online",
        "own_texts",
        "remembered_acceptance",
    ),
    "outcome": ("Accepted", "StepOutcome", "TokenLogprob"),
    "ranked": ("RankedAcceptance",),
    "record": ("Record", "Request"),
    "rules": ("AcceptanceRule", "rule_for"),
    "session": ("Session",),
    "state": ("DecodeState",),
    "topology": ("TreeTopology",),
    "tree": ("DraftLaw", "TokenTree"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AcceptanceRule",
    "AcceptanceSource",
    "AcceptanceVector",
    "Accepted",
    "Answer",
    "Candidate",
    "Corrector",
    "DecodeState",
    "DraftKind",
    "DraftLaw",
    "DraftLoader",
    "DraftModel",
    "DraftModelConfig",
    "Drafter",
    "FivefoldOutput",
    "NoCorrection",
    "Profile",
    "Proposal",
    "RankedAcceptance",
    "Record",
    "Request",
    "Rule",
    "Session",
    "Settings",
    "StepOutcome",
    "TokenLogprob",
    "TokenTree",
    "TreeTopology",
    "check_rule",
    "decode",
    "fivefold_generate",
    "generate",
    "measure_acceptance",
    "measure_online",
    "own_texts",
    "remembered_acceptance",
    "rule_for",
    "step_seconds",
    "stream",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """A package whose functions are not hidden by modules of the same name (`decode`)."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
