"""SpecExec sits the exam of drafters, as a tree of an independent draft and of a feature head."""

from fivefold_speculative.testing import DrafterSuite


class TestSpecExecIsADrafter(DrafterSuite):
    overrides = ["drafting=specexec", "drafting.budget=8"]


class TestWithAFeatureHead(DrafterSuite):
    overrides = ["drafting=specexec", "drafting.kind=feature_head", "drafting.budget=8"]
    samples = 10_000


class TestWithAChunkedHead(DrafterSuite):
    overrides = ["drafting=specexec", "drafting.budget=8", "drafting.lm_head_chunk=1000"]
    samples = 10_000


class TestForKnownNoise(DrafterSuite):
    overrides = ["drafting=specexec", "drafting.budget=8", "drafting.logit_error=0.5"]
    samples = 10_000


class TestForKnownNoiseJudgedByCoins(DrafterSuite):
    overrides = [*TestForKnownNoise.overrides, "rule=point_mass"]
    samples = 10_000
