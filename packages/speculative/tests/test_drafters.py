"""Every drafting method of this package sits the exam."""

import gc

import pytest
from fivefold_speculative.testing import DrafterSuite

FEWER = 6_000
"""Samples for methods whose parts are examined by another class with all samples."""


@pytest.fixture(autouse=True, scope="module")
def collecting_little():
    """Spare the garbage collector torch and transformers: walking them takes half the time."""
    gc.freeze()
    yield
    gc.unfreeze()


class TestNone(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=none"]


class TestPromptLookup(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=prompt_lookup", "drafting.num_tokens=3"]


class TestChain(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=chain", "drafting.length=3", "drafting.proposal=without_replacement"]


class TestSampledChain(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=chain", "drafting.length=2", "drafting.proposal=sampled"]


class TestExpansion(DrafterSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]"]


class TestSampledExpansion(DrafterSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]", "drafting.proposal=sampled"]


class TestTopkExpansionByPointMass(DrafterSuite):
    samples = FEWER
    overrides = [
        "drafting=expansion",
        "drafting.widths=[3,2]",
        "drafting.proposal=topk",
        "drafting.temperature=0.5",
    ]

    def compose(self, *more: str):
        sampled = any(word.startswith("sampling.temperature") for word in more)
        looked_up = "rule=lookup" in more
        return super().compose(*more, *(["rule=point_mass"] if sampled and not looked_up else []))


class TestFeatureHead(DrafterSuite):
    samples = FEWER
    overrides = ["drafting=feature_head", "drafting.widths=[1,1,1]"]


class TestFeatureHeadTree(DrafterSuite):
    overrides = ["drafting=feature_head", "drafting.widths=[2,2]"]
