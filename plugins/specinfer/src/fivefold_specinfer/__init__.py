"""SpecInfer: token trees of one or several drafts, merged and verified in one pass."""

from fivefold import Method, hookimpl
from fivefold_lm._words import Capability
from fivefold_speculative import Proposal

from .config import SpecInferConfig


@hookimpl
def fivefold_drafting() -> list[Method]:
    """Describe the method; `build` is imported when it is chosen."""
    specinfer = Method(
        name="specinfer",
        config=SpecInferConfig,
        build="fivefold_specinfer.drafter:build",
        summary="trees of one or several drafts, merged and verified in one pass",
        reference="arXiv 2305.09781, sections 3 and 4",
        provides=frozenset({Proposal.POINT_MASS, Proposal.SAMPLED}),
        needs=frozenset({"task:generate", Capability.TREE_ATTENTION}),
    )
    return [specinfer]
