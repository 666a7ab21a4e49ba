"""The exam of `drafting=specinfer`: one draft, several, a budget; and the bugs it catches."""

from dataclasses import replace

import pytest
from fivefold_specinfer import drafter as specinfer
from fivefold_specinfer import trie
from fivefold_specinfer.budget import allot
from fivefold_specinfer.drafter import Member, SpecInferDrafter, build
from fivefold_speculative.drafters.choosing import draw_with_replacement
from fivefold_speculative.testing import PROMPTS, DrafterSuite, planted
from fivefold_speculative.toy import plain_greedy

FEWER = 6_000
SHAPE = "drafting.widths=[1,2,1]"
TWO = "drafting.drafts=[toy-1,{draft: toy-2, temperature: 0.7}]"
JOINT = "test_joint_law_of_three_tokens_is_the_targets"
DUPLICATES = ["drafting=specinfer", "drafting.widths=[4,2]"]


class _Exam(DrafterSuite):
    """Small, for there are many."""

    samples = FEWER


class TestExpansion(_Exam):
    overrides = ["drafting=specinfer", "drafting.widths=[3,2]"]


class TestMergedDrafts(_Exam):
    """Two drafts of different word lists, one of them at a temperature of its own."""

    samples = 10_000
    overrides = ["drafting=specinfer", SHAPE, TWO]


@pytest.mark.slow
class TestThreeDraftsOneOfThemTwice(_Exam):
    overrides = [
        "drafting=specinfer",
        "drafting.widths=[2,1]",
        "drafting.drafts=[toy-1,{draft: toy-1, temperature: 2.0},toy-2]",
    ]


class TestMergedTopk(_Exam):
    overrides = ["drafting=specinfer", SHAPE, TWO, "drafting.proposal=topk"]


@pytest.mark.slow
class TestMergedTopkByPointMass(_Exam):
    overrides = ["drafting=specinfer", SHAPE, TWO, "drafting.proposal=topk"]

    def compose(self, *more: str):
        sampled = any(word.startswith("sampling.temperature") for word in more)
        looked_up = "rule=lookup" in more
        return super().compose(*more, *(["rule=point_mass"] if sampled and not looked_up else []))


class _Budgeted(_Exam):
    """Of what the drafts may write a third is verified, or a sixth, of however many requests.

    A request's tree depends on its batch mates here: not the greedy text, nor any law.
    """

    sessions = 0

    @pytest.fixture(autouse=True)
    def binding(self, request, monkeypatch):
        """See that steps have nodes left out, and some kept: else no budget is examined."""
        seen = []

        def watched(chance, may, budget):
            taken = allot(chance, may, budget)
            seen.append((int(taken.sum()), int(may.sum())))
            return taken

        monkeypatch.setattr(specinfer, "allot", watched)
        yield
        bound = sum(0 < taken < offered for taken, offered in seen)
        assert bound >= self.sessions
        assert bound or "light" in request.node.name

    def drafter(self, run, session):
        config = run.settings("drafting")
        depths, left = config.shape().depths, session.rows[0].left
        drafted = len(config.entries()) * sum(0 < depth <= left for depth in depths)
        self.sessions += 1
        share = 3 if self.sessions % 2 else 6
        budget = session.batch + max(1, session.batch * drafted // share)
        return build(replace(config, max_verify_tokens=budget), session)

    def test_text_does_not_depend_on_batch_mates(self):
        run, model = self.compose(), self.target(eos=True)
        together = self.decode(run, self.session(run, PROMPTS, 16, model=model))
        assert together == [plain_greedy(model, prompt, 16)[0] for prompt in PROMPTS]


class TestBudgetOfDraws(_Budgeted):
    overrides = ["drafting=specinfer", SHAPE, TWO, "drafting.proposal=sampled"]


class TestBudgetOfTopk(_Budgeted):
    overrides = ["drafting=specinfer", SHAPE, TWO, "drafting.proposal=topk"]


class TestDefaultTreeOfOneDraft(_Exam):
    """The paper's own tree: deeper than most answers of the exam."""

    overrides = ["drafting=specinfer"]


class _OnAnAccelerator(_Exam):
    """Where the host does not ask how many nodes there are, and everything has its full size."""

    @pytest.fixture(autouse=True)
    def never_asking(self, monkeypatch):
        monkeypatch.setattr(trie, "_width", lambda count, bound: bound)
        monkeypatch.setattr(Member, "_most_late", lambda self: self.num_late)
        wanted = SpecInferDrafter._wanted

        def on_all_levels(self, state):
            return self.topology.num_levels - 1, wanted(self, state)[1]

        monkeypatch.setattr(SpecInferDrafter, "_wanted", on_all_levels)


@pytest.mark.slow
class TestMergedDraftsOnAnAccelerator(_OnAnAccelerator):
    overrides = ["drafting=specinfer", SHAPE, TWO]


class TestBudgetOfDrawsOnAnAccelerator(_OnAnAccelerator, _Budgeted):
    overrides = TestBudgetOfDraws.overrides


class TestBudgetOfTopkOnAnAccelerator(_OnAnAccelerator, _Budgeted):
    overrides = TestBudgetOfTopk.overrides


class Exam(_Exam):
    samples = 10_000

    def __init__(self, overrides):
        self.overrides = overrides


@pytest.mark.parametrize(
    ("bug", "overrides", "test"),
    [
        ("dropped_duplicates", DUPLICATES, JOINT),
        ("dropped_duplicates", [*DUPLICATES, TWO], JOINT),
        ("topk_as_sampled", DUPLICATES, "test_law_of_one_token_is_the_targets"),
        (
            "topk_as_sampled",
            [*DUPLICATES, "drafting.proposal=topk"],
            "test_law_of_one_token_is_the_targets",
        ),
        ("noise_reused", DUPLICATES, JOINT),
    ],
)
def test_the_exam_fails_for_a_seeded_bug(bug, overrides, test):
    with planted(bug), pytest.raises(AssertionError):
        getattr(Exam(overrides), test)()


@pytest.mark.parametrize(
    ("overrides", "num_tokens"),
    [
        (["drafting.widths=[2]", "drafting.drafts=[toy-1,toy-1,toy-1]"], 1),
        (["drafting.widths=[6,3]"], 2),
    ],
)
def test_the_exam_fails_where_drafts_or_merged_parents_share_their_noise(
    monkeypatch, overrides, num_tokens
):
    """Draws under one merged node would then be copies of one another, not independent."""

    def shared(law, width, state, depth, draft=0):
        return draw_with_replacement(law, width, state, depth)

    monkeypatch.setattr(specinfer, "draw_apart", shared)
    exam = Exam(["drafting=specinfer", *overrides])
    assert not exam.law_check(num_tokens, "sampling.temperature=1.0").passed


def test_the_exam_fails_where_draws_are_pruned_by_their_own_probability(monkeypatch):
    """The reason why the budget of draws looks at no draft probability."""
    right = specinfer.merge

    def pruned(drafted, kept, levels, vocab_size, most):
        kept = [own & likely(tree) for own, tree in zip(kept, drafted, strict=True)]
        return right(drafted, kept, levels, vocab_size, most)

    def likely(tree):
        laws = tree.law.probs[:, :1]  # the root's
        words = tree.law.vocab_ids
        place = (tree.tokens[..., None] == words).int().argmax(-1)
        return laws[:, 0].gather(1, place) > 0.15

    monkeypatch.setattr(specinfer, "merge", pruned)
    exam = Exam(["drafting=specinfer", "drafting.widths=[3]"])
    assert not exam.law_check(1, "sampling.temperature=1.0").passed
