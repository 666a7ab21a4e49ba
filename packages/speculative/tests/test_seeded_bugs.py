"""An exam that a broken engine passes examines nothing: every seeded bug must fail it."""

import gc

import pytest
from fivefold_speculative.testing import SEEDED_BUGS, DrafterSuite, planted

JOINT = "test_joint_law_of_three_tokens_is_the_targets"
CASES = [
    ("noise_reused", ["drafting=none"], JOINT),
    ("noise_reused", ["drafting=prompt_lookup", "drafting.num_tokens=2"], JOINT),
    ("noise_reused", ["drafting=expansion", "drafting.widths=[2,2]"], JOINT),
    (
        "topk_as_sampled",
        ["drafting=expansion", "drafting.widths=[2]", "drafting.proposal=sampled"],
        "test_law_of_one_token_is_the_targets",
    ),
    (
        "topk_as_sampled",
        ["drafting=expansion", "drafting.widths=[2]"],
        "test_law_of_one_token_is_the_targets",
    ),
    (
        "topk_as_sampled",
        ["drafting=prompt_lookup", "drafting.num_tokens=2"],
        "test_law_of_one_token_is_the_targets",
    ),
    (
        "dropped_duplicates",
        ["drafting=expansion", "drafting.widths=[4,2]", "drafting.proposal=sampled"],
        JOINT,
    ),
    (
        "inverted_top_p",
        ["drafting=none"],
        "test_joint_law_under_a_cut_sampler_is_the_targets",
    ),
    (
        "boolean_mask",
        ["drafting=expansion", "drafting.widths=[2,2]"],
        "test_greedy_text_equals_plain_decoding",
    ),
]


@pytest.fixture(autouse=True, scope="module")
def collecting_little():
    """Spare the garbage collector torch and transformers: walking them takes half the time."""
    gc.freeze()
    yield
    gc.unfreeze()


class Exam(DrafterSuite):
    def __init__(self, overrides):
        self.overrides = overrides


@pytest.mark.parametrize(("bug", "overrides", "test"), CASES)
def test_the_exam_fails_for_a_seeded_bug(bug, overrides, test):
    with planted(bug), pytest.raises(AssertionError):
        getattr(Exam(overrides), test)()


def test_every_bug_has_a_case():
    assert {case[0] for case in CASES} == set(SEEDED_BUGS)


def test_marginals_alone_would_miss_noise_that_is_reused():
    with planted("noise_reused"):
        Exam(["drafting=none"]).test_law_of_one_token_is_the_targets()


def test_a_bug_is_gone_when_its_context_ends():
    exam = Exam(["drafting=expansion", "drafting.widths=[2,2]"])
    exam.samples = 2_000
    with planted("topk_as_sampled"):
        pass
    exam.test_law_of_one_token_is_the_targets()
