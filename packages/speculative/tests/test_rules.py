"""Acceptance rules: the exam, the published theorems, and the walk."""

import numpy as np
import pytest
import torch
from fivefold_lm import RandomStream, Rows, Sampler, SamplingConfig
from fivefold_speculative import DecodeState, Proposal, TokenTree, TreeTopology
from fivefold_speculative.enumeration import draws, emitted_law, random_laws
from fivefold_speculative.rules import (
    GreedyRule,
    LookupRule,
    MultiStepRule,
    PointMassRule,
    WithoutReplacementRule,
)
from fivefold_speculative.testing import RuleSuite

VOCAB = 4


class TestGreedyRule(RuleSuite):
    def rule(self):
        return GreedyRule()


class TestLookupRule(RuleSuite):
    def rule(self):
        return LookupRule()


class TestPointMassRule(RuleSuite):
    def rule(self):
        return PointMassRule()


class TestMultiStepRule(RuleSuite):
    def rule(self):
        return MultiStepRule()


class TestWithoutReplacementRule(RuleSuite):
    def rule(self):
        return WithoutReplacementRule()


def acceptance(rule, proposal, children, target, draft):
    return emitted_law(rule, proposal, children, target, draft)[1]


@pytest.mark.parametrize("children", [1, 2, 3, 4])
def test_without_replacement_accepts_at_least_as_much_as_multi_step_as_naive(children):
    target, draft = random_laws(100, seed=5)
    sequoia = acceptance(
        WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT, children, target, draft
    )
    multi_step = acceptance(MultiStepRule(), Proposal.SAMPLED, children, target, draft)
    naive = acceptance(LookupRule(), Proposal.SAMPLED, children, target, draft)
    assert (sequoia >= multi_step - 1e-9).all()
    assert (multi_step >= naive - 1e-9).all()
    if children > 1:
        assert sequoia.mean() > multi_step.mean() > naive.mean()


@pytest.mark.parametrize(
    ("rule", "proposal"),
    [
        (MultiStepRule(), Proposal.SAMPLED),
        (WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT),
    ],
)
def test_one_child_stands_with_one_minus_the_total_variation(rule, proposal):
    target, draft = random_laws(100, seed=6)
    found = acceptance(rule, proposal, 1, target, draft)
    np.testing.assert_allclose(found, np.minimum(target, draft).sum(1), atol=1e-12)


def test_draws_that_cover_the_vocabulary_always_stand():
    target, draft = random_laws(100, seed=7)
    found = acceptance(WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT, VOCAB, target, draft)
    np.testing.assert_allclose(found, 1, atol=1e-12)


def brute_force_thresholds(target, draft, tokens, replaced):
    """The rules of the papers, one row, in NumPy: acceptance of each draw after rejections."""
    residual, law, found = target.copy(), draft.copy(), []
    untried = np.ones(len(law))
    for token in tokens:
        found.append(min(1, residual[token] / law[token]) if law[token] else np.nan)
        left = np.maximum(residual - law, 0)
        if left.sum() == 0:
            found += [np.nan] * (len(tokens) - len(found))
            return found
        residual = left / left.sum()
        if not replaced:
            untried[token] = 0
            law = law * untried
            law = law / law.sum() if law.sum() > 0 else untried / max(untried.sum(), 1)
    return found


@pytest.mark.parametrize(
    ("rule", "proposal", "replaced"),
    [
        (MultiStepRule(), Proposal.SAMPLED, True),
        (WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT, False),
    ],
)
def test_each_draw_stands_as_often_as_the_paper_says(rule, proposal, replaced):
    from fivefold_speculative.enumeration import _Node

    targets, drafts = random_laws(30, seed=8)
    rows = [
        (target, draft, tokens)
        for target, draft in zip(targets, drafts, strict=True)
        for tokens, _ in draws(proposal, 3, draft)
    ]
    node = _Node(
        rule,
        torch.tensor(np.array([row[0] for row in rows])),
        torch.tensor(np.array([row[1] for row in rows])),
        torch.tensor([row[2] for row in rows]),
    )
    found = np.stack([node.threshold(place) for place in range(3)], 1)
    expected = np.array([brute_force_thresholds(*row, replaced) for row in rows])
    reached = ~np.isnan(expected) & (np.cumprod(1 - np.nan_to_num(expected), 1) >= 0)
    certain = np.cumsum(np.nan_to_num(expected) == 1, 1) - (np.nan_to_num(expected) == 1) > 0
    reached &= ~certain
    np.testing.assert_allclose(found[reached], expected[reached], atol=1e-9)


def state_of(batch, vocab, sampling, active=None):
    ones = torch.ones(batch, dtype=torch.long)
    sampler = Sampler(sampling, vocab_size=vocab)
    return DecodeState(
        tokens=torch.zeros(batch, 16, dtype=torch.long),
        lengths=ones,
        active=ones > 0 if active is None else torch.tensor(active),
        request=torch.arange(batch),
        noise=RandomStream(0),
        sampler=sampler,
        history=sampler.history([[0]] * batch),
        alive=True,
    )


def test_greedy_walk_takes_the_first_of_two_equal_children_and_stops_at_a_leaf():
    tree = TokenTree.rooted(torch.tensor([5, 5, 5]), TreeTopology((-1, 0, 0, 0, 2, 4)))
    tree.fill(range(1, 6), torch.tensor([[1, 2, 2, 3, 4], [1, 2, 2, 3, 4], [1, 2, 2, 3, 4]]))
    logits = torch.zeros(3, 6, 8)
    for node, best in enumerate([2, 7, 3, 6, 4, 0]):
        logits[:, node, best] = 1
    logits[1, 2] = torch.eye(8)[6]
    accepted = GreedyRule().accept(
        tree, Rows(logits, None), state_of(3, 8, SamplingConfig(), [True, True, False])
    )
    assert accepted.count.tolist() == [4, 2, 0]
    assert accepted.path.tolist() == [[0, 2, 4, 5], [0, 2, 0, 0], [0, 0, 0, 0]]
    assert accepted.tokens.tolist() == [[2, 3, 4, 0], [2, 6, 0, 0], [0, 0, 0, 0]]


def test_greedy_walk_with_a_penalty_agrees_with_the_fast_path_without_one():
    torch.manual_seed(0)
    topology = TreeTopology.expansion([3, 2, 2])
    tree = TokenTree.rooted(torch.randint(6, (64,)), topology)
    tree.fill(range(1, topology.num_nodes), torch.randint(6, (64, topology.num_nodes - 1)))
    rows = Rows(torch.randn(64, topology.num_nodes, 6), None)
    fast = GreedyRule().accept(tree, rows, state_of(64, 6, SamplingConfig()))
    slow = state_of(64, 6, SamplingConfig(presence_penalty=1e-9))
    assert slow.sampler.needs_history
    walked = GreedyRule().accept(tree, rows, slow)
    assert torch.equal(fast.path, walked.path)
    assert torch.equal(fast.tokens, walked.tokens)
    assert torch.equal(fast.count, walked.count)


def test_a_node_that_does_not_exist_is_never_accepted():
    tree = TokenTree.rooted(torch.tensor([0]), TreeTopology.chain(1))
    tree.fill(range(1, 2), torch.tensor([[3]]))
    tree.valid[:, 1:] = False
    logits = torch.zeros(1, 2, 4)
    logits[:, :, 3] = 9
    state = state_of(1, 4, SamplingConfig(temperature=1.0))
    for rule in (LookupRule(), PointMassRule(), MultiStepRule()):
        if isinstance(rule, MultiStepRule):
            from fivefold_speculative import DraftLaw

            none = torch.zeros(1, 2, dtype=torch.long)
            tree.law = DraftLaw(torch.full((1, 1, 4), 0.25), none, None, 4)
        assert rule.accept(tree, Rows(logits, None), state).count.tolist() == [1]


def test_without_replacement_falls_back_to_untried_words_of_the_draft_alone():
    from fivefold_speculative import DraftLaw

    words = torch.tensor([3, 1, 0])
    law = DraftLaw(torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[0, 0, 0]]), words, 5)
    assert law.of(torch.tensor([1])).tolist() == [[0, 0, 0, 1, 0]]
    assert law.support().tolist() == [True, True, False, True, False]
    rule = WithoutReplacementRule()
    left = torch.tensor([[0.0, 0.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    assert rule.law_of(left, torch.tensor([[0]])).tolist() == [[0.5, 0.5, 0, 0, 0]]
