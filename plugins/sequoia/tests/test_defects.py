"""Defects of the released code that must not come back, one test each."""

import numpy as np
import pytest
import torch
from fivefold_lm import Purpose, RandomStream, Rows, Sampler, SamplingConfig
from fivefold_speculative import DecodeState, DraftLaw, Proposal, TokenTree, TreeTopology
from fivefold_speculative.drafters.choosing import choose_children
from fivefold_speculative.enumeration import emitted_law
from fivefold_speculative.rules import WithoutReplacementRule
from fivefold_speculative.testing import DrafterSuite, planted

RULE, PROPOSAL = WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT


class Exam(DrafterSuite):
    overrides = ("drafting=sequoia", "drafting.nodes=4", "drafting.acceptance=fallback")
    samples = 8000


def test_noise_drawn_once_a_prompt_is_noticed_in_the_joint_law_alone():
    """Released: race and coins are drawn when the tree is made, and used again at every step."""
    exam = Exam()
    with planted("noise_reused"):
        exam.test_law_of_one_token_is_the_targets()
        with pytest.raises(AssertionError, match="joint law"):
            exam.test_joint_law_of_three_tokens_is_the_targets()


def test_a_draft_law_that_is_used_up_goes_on_uniformly():
    """Released: P=(.2,.4,.4), Q=(1,0,0), two children give (.2,.8,0)."""
    target, draft = np.array([[0.2, 0.4, 0.4]]), np.array([[1.0, 0.0, 0.0]])
    law, _ = emitted_law(RULE, PROPOSAL, 2, target, draft)
    np.testing.assert_allclose(law, target, atol=1e-12)


def state_of(rows, vocab):
    lengths = torch.ones(rows, dtype=torch.long)
    sampler = Sampler(SamplingConfig(temperature=1.0), vocab_size=vocab)
    return DecodeState(
        tokens=torch.zeros(rows, 8, dtype=torch.long),
        lengths=lengths,
        active=lengths > 0,
        request=torch.arange(rows),
        noise=RandomStream(3),
        sampler=sampler,
        history=None,
        alive=True,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_peaked_draft_in_half_precision_keeps_its_small_words(dtype):
    """Released: the softmax in half precision makes most words 0, and ties decide the race."""
    logits = torch.tensor([0.0, -18.0, -19.0, -30.0, -31.0], dtype=dtype)
    state = state_of(4000, 5)
    words, law = choose_children(
        logits.expand(4000, 1, -1), 3, PROPOSAL, state.sampler, state, depth=0
    )
    assert law is not None
    assert law.dtype == torch.float32
    assert bool((law > 0).all())
    assert bool((words[:, 0, 0] == 0).all())
    second = np.bincount(words[:, 0, 1].numpy(), minlength=5) / 4000
    assert second[1] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)


def test_uniforms_are_never_zero_or_one():
    noise = state_of(2000, 5).uniform(Purpose.ACCEPT, 0, 500)
    assert float(noise.min()) > 0
    assert float(noise.max()) < 1


def test_a_draft_that_equals_the_target_is_accepted_and_nothing_ends():
    """Released: the residual of P = D is 0/0, and the generation ends without a word."""
    law = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    emitted, accepted = emitted_law(RULE, PROPOSAL, 2, law, law)
    np.testing.assert_allclose(emitted, law, atol=1e-12)
    np.testing.assert_allclose(accepted, 1, atol=1e-12)


def test_a_second_verification_gives_the_same_and_changes_nothing():
    """Released: verification writes into the draft's logits."""
    rows, topology = 200, TreeTopology((-1, 0, 0, 0, 1, 1, 2))
    state = state_of(rows, 6)
    torch.manual_seed(0)
    tree = TokenTree.rooted(torch.zeros(rows, dtype=torch.long), topology)
    law = torch.rand(rows, 3, 6).softmax(-1)
    tree.law = DraftLaw(law, torch.tensor([[0, 0, 0, 0, 1, 1, 2]]), None, 6)
    tree.fill(range(1, 7), torch.rand(rows, 6, 6).argmax(-1))
    target = Rows(torch.randn(rows, 7, 6), None)
    before = law.clone(), tree.tokens.clone(), target.logits.clone()
    first, again = (RULE.accept(tree, target, state) for _ in range(2))
    assert torch.equal(first.path, again.path)
    assert torch.equal(first.tokens, again.tokens)
    for old, new in zip(before, (tree.law.probs, tree.tokens, target.logits), strict=True):
        assert torch.equal(old, new)


def test_the_end_of_text_is_the_models_own():
    """Released: ids 0 and 2 end a text, and the vocabulary has 32,000 words."""
    exam = Exam()
    exam.test_greedy_text_equals_plain_decoding()  # token 0 ends a text here …
    run = exam.compose()
    texts = exam.decode(run, exam.session(run, [[1, 2], [2, 0]], 24))  # … and none does here
    assert [len(text) for text in texts] == [24, 24]
