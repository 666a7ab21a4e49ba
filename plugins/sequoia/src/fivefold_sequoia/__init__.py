"""Sequoia: the tree with the most expected tokens for this draft and this machine."""

from fivefold import Method, hookimpl
from fivefold_lm._words import Capability
from fivefold_speculative import Proposal

from .config import SequoiaConfig


@hookimpl
def fivefold_drafting() -> list[Method]:
    """Describe the method; `build` is imported when it is chosen."""
    sequoia = Method(
        name="sequoia",
        config=SequoiaConfig,
        build="fivefold_sequoia.drafter:build",
        summary="the best static tree for the draft's measured acceptance",
        reference="arXiv 2402.12374, sections 3 and 4",
        provides=frozenset({Proposal.WITHOUT_REPLACEMENT, Proposal.SAMPLED, Proposal.POINT_MASS}),
        needs=frozenset({"task:generate", Capability.TREE_ATTENTION}),
    )
    return [sequoia]
