"""SpecExec: the most probable tree under a budget, grown anew at every step."""

from __future__ import annotations

from fivefold import Method, hookimpl
from fivefold_lm._words import Capability
from fivefold_speculative._words import Proposal

from .config import SpecExecConfig

__all__ = ["SpecExecConfig", "fivefold_drafting"]


@hookimpl
def fivefold_drafting() -> list[Method]:
    """Describe the method; `build` is imported when it is chosen."""
    specexec = Method(
        name="specexec",
        config=SpecExecConfig,
        build="fivefold_specexec.drafter:build",
        summary="the most probable tree under a budget, grown anew at every step",
        reference="arXiv 2406.02532",
        provides=frozenset({Proposal.POINT_MASS}),
        needs=frozenset({"task:generate", Capability.TREE_ATTENTION}),
    )
    return [specexec]
