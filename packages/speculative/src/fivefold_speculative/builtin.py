"""What this package offers to the host: its methods and its tasks. Light: no torch."""

from __future__ import annotations

from fivefold import Method, Task, hookimpl
from fivefold_lm._words import Capability

from ._words import Proposal
from .config import (
    AutoConfig,
    ChainConfig,
    ExpansionConfig,
    FeatureHeadConfig,
    NoCorrectionConfig,
    PlainConfig,
    PromptLookupConfig,
)
from .task_configs import TASKS

_FROM_A_DRAFT = frozenset({Proposal.POINT_MASS, Proposal.SAMPLED, Proposal.WITHOUT_REPLACEMENT})
_GENERATE = "task:generate"


@hookimpl
def fivefold_drafting() -> list[Method]:
    """Describe the drafting methods that need no paper's plugin."""
    none = Method(
        name="none",
        config=PlainConfig,
        build="fivefold_speculative.drafters.none:build",
        summary="plain decoding, one token a pass",
        provides=frozenset({Proposal.EMPTY}),
        needs=frozenset({_GENERATE}),
    )
    prompt_lookup = Method(
        name="prompt_lookup",
        config=PromptLookupConfig,
        build="fivefold_speculative.drafters.prompt_lookup:build",
        summary="continue as the text continued the last time these tokens stood in it",
        reference="github.com/apoorvumang/prompt-lookup-decoding",
        provides=frozenset({Proposal.POINT_MASS}),
        needs=frozenset({_GENERATE, Capability.CROPPABLE}),
    )
    chain = Method(
        name="chain",
        config=ChainConfig,
        build="fivefold_speculative.drafters.chain:build",
        summary="a smaller model writes a few tokens ahead",
        reference="arXiv 2211.17192",
        provides=_FROM_A_DRAFT,
        needs=frozenset({_GENERATE, Capability.CROPPABLE}),
    )
    expansion = Method(
        name="expansion",
        config=ExpansionConfig,
        build="fivefold_speculative.drafters.model_tree:build",
        summary="a smaller model writes a tree of given widths or shape",
        reference="arXiv 2305.09781, section 3",
        provides=_FROM_A_DRAFT,
        needs=frozenset({_GENERATE, Capability.TREE_ATTENTION}),
    )
    feature_head = Method(
        name="feature_head",
        config=FeatureHeadConfig,
        build="fivefold_speculative.drafters.feature_head:build",
        summary="a head on the target's last hidden state writes a chain or a tree",
        reference="arXiv 2401.15077",
        provides=_FROM_A_DRAFT,
        needs=frozenset({_GENERATE, Capability.TREE_ATTENTION, Capability.HIDDEN_STATES}),
    )
    auto = Method(
        name="auto",
        config=AutoConfig,
        build="fivefold_speculative.planner.drafter:build",
        summary="what promises most on this machine, or plain decoding",
        provides=frozenset(Proposal),
        needs=frozenset({_GENERATE}),
    )
    return [none, prompt_lookup, chain, expansion, feature_head, auto]


@hookimpl
def fivefold_correction() -> list[Method]:
    """Describe the correction that corrects nothing."""
    none = Method(
        name="none",
        config=NoCorrectionConfig,
        build="fivefold_speculative.corrector:build",
        summary="the acceptance rule alone decides: lossless",
        provides=frozenset({"lossless"}),
        needs=frozenset({_GENERATE}),
    )
    return [none]


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe generate, chat, bench and audit."""
    return TASKS
