"""Multi-step sampling over several laws, by exact enumeration, on merged and unmerged trees."""

import numpy as np
import pytest
import torch
from fivefold_specinfer.trie import merge
from fivefold_speculative import DraftLaw, Proposal, TokenTree, TreeTopology
from fivefold_speculative.enumeration import draws, emitted_law, random_laws
from fivefold_speculative.rules import LookupRule, MultiStepRule, PointMassRule
from fivefold_speculative.tree import SeveralLaws

VOCAB = 4
CASES = 40
EXACT = 1e-9


def merged(children, laws):
    """Return the merge of one chain of a single token a child, each drawn by its own draft."""
    batch, count = children.shape
    roots = torch.zeros(batch, dtype=torch.long)
    drafted = [TokenTree.rooted(roots, TreeTopology.chain(1)) for _ in range(count)]
    for place, tree in enumerate(drafted):
        tree.fill(range(1, 2), children[:, place : place + 1])
    tree = merge(drafted, [tree.valid for tree in drafted], 1, laws.shape[-1]).tree
    none = torch.zeros(1, 1 + count, dtype=torch.long)
    parts = [DraftLaw(laws[:, place : place + 1], none, None, VOCAB) for place in range(count)]
    tree.law = SeveralLaws(parts, torch.tensor([0, *range(count)]))
    return tree


def laws_of(children, distinct, seed):
    """Return target laws, and the law of each child: so many distinct ones, in turn."""
    target, first = random_laws(CASES, seed)
    several = [first, *(random_laws(CASES, seed + 1 + k)[1] for k in range(distinct - 1))]
    return target, np.stack([several[child % distinct] for child in range(children)], 1)


@pytest.mark.parametrize("tree_of", [None, merged])
@pytest.mark.parametrize("children", [1, 2, 3, 4])
@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_emitted_law_is_the_targets_for_draws_from_up_to_three_laws(children, distinct, tree_of):
    target, draft = laws_of(children, distinct, seed=20 + children)
    emitted, _ = emitted_law(
        MultiStepRule(), Proposal.SAMPLED, children, target, draft, tree_of=tree_of
    )
    np.testing.assert_allclose(emitted, target, atol=EXACT)


def test_merging_changes_neither_the_law_nor_how_often_a_child_stands():
    target, draft = laws_of(3, 3, seed=30)
    apart = emitted_law(MultiStepRule(), Proposal.SAMPLED, 3, target, draft)
    one = emitted_law(MultiStepRule(), Proposal.SAMPLED, 3, target, draft, tree_of=merged)
    for before, after in zip(apart, one, strict=True):
        np.testing.assert_allclose(after, before, atol=EXACT)


def test_enumeration_meets_merged_duplicates():
    tree = merged(torch.tensor([[2, 1, 2, 2]]), torch.full((1, 4, VOCAB), 0.25))
    assert tree.num_nodes == 3
    assert tree.draws.nodes.tolist() == [[0, 1, 2, 1, 1]]
    assert [int(tree.draw(torch.tensor([0]), place)) for place in range(5)] == [1, 2, 3, 4, 0]


def union_of(*bests):
    """Return what builds the merge of the drafts' best children, [case, child] each, as a set."""

    def tree_of(children, laws):
        drafted = []
        for best in bests:
            topology = TreeTopology.expansion([best.shape[1]])
            drafted.append(TokenTree.rooted(torch.zeros(len(best), dtype=torch.long), topology))
            drafted[-1].fill(range(1, topology.num_nodes), best)
        tree = merge(drafted, [tree.valid for tree in drafted], 1, VOCAB).tree
        tree.draws = None  # as the drafter leaves it where nothing was drawn
        return tree

    return tree_of


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_point_mass_rule_is_exact_for_a_merged_union(width, drafts):
    """Against enumeration; the union is made by hand, each word where it first comes."""
    target, first = random_laws(CASES, seed=31)
    several = [first, *(random_laws(CASES, seed=32 + place)[1] for place in range(drafts - 1))]
    bests = [np.argsort(-law, axis=1, kind="stable")[:, :width] for law in several]
    unions = [list(dict.fromkeys(row)) for row in np.concatenate(bests, 1).tolist()]
    sizes = {len(union) for union in unions}
    assert drafts == 1 or min(sizes) < drafts * width  # something is merged
    for size in sizes:
        cases = [case for case, union in enumerate(unions) if len(union) == size]
        tree_of = union_of(*(torch.tensor(best[cases]) for best in bests))
        drawn = [[(tuple(unions[case]), 1.0)] for case in cases]
        laws = target[cases], first[cases]
        rule, proposal = PointMassRule(), Proposal.POINT_MASS
        emitted, stands = emitted_law(rule, proposal, size, *laws, drawn=drawn, tree_of=tree_of)
        np.testing.assert_allclose(emitted, target[cases], atol=EXACT)
        inside = [target[case, unions[case]].sum() for case in cases]
        np.testing.assert_allclose(stands, inside, atol=EXACT)


@pytest.mark.parametrize("children", [1, 2, 3])
def test_multi_step_rejects_no_more_than_naive_sampling_over_several_laws(children):
    target, draft = laws_of(children, 3, seed=40)
    stands = emitted_law(MultiStepRule(), Proposal.SAMPLED, children, target, draft)[1]
    naive = emitted_law(LookupRule(), Proposal.SAMPLED, children, target, draft)[1]
    assert (stands >= naive - EXACT).all()


# What must not be lossless: were it so here, the enumeration would examine nothing.


def deviation(emitted, target):
    """Return the largest deviation of each case, averaged."""
    return np.abs(emitted - target).max(1).mean()


def test_topk_children_under_the_p_over_q_rule_are_not_lossless():
    target, draft = random_laws(CASES, seed=50)
    best = [draws(Proposal.POINT_MASS, 2, law) for law in draft]
    emitted, _ = emitted_law(MultiStepRule(), Proposal.SAMPLED, 2, target, draft, drawn=best)
    assert deviation(emitted, target) > 0.05


def test_dropped_duplicates_are_not_lossless():
    target, draft = random_laws(CASES, seed=51)
    drawn = [draws(Proposal.SAMPLED, 2, law) for law in draft]
    twice = [[(some[:1], chance) for some, chance in part if some[0] == some[1]] for part in drawn]
    once = [[(some, chance) for some, chance in part if some[0] != some[1]] for part in drawn]
    emitted = sum(
        emitted_law(MultiStepRule(), Proposal.SAMPLED, count, target, draft, drawn=part)[0]
        for count, part in ((1, twice), (2, once))
    )
    assert deviation(emitted, target) > 0.01


def test_an_order_by_target_probability_is_not_lossless():
    target, draft = random_laws(CASES, seed=52)
    drawn = [
        [
            (tuple(sorted(some, key=lambda token: -law[token])), chance)
            for some, chance in draws(Proposal.SAMPLED, 2, own)
        ]
        for law, own in zip(target, draft, strict=True)
    ]
    emitted, _ = emitted_law(MultiStepRule(), Proposal.SAMPLED, 2, target, draft, drawn=drawn)
    assert deviation(emitted, target) > 0.01


def test_laws_of_drafts_with_other_words_are_spread_over_the_targets_vocabulary():
    first = DraftLaw(
        torch.tensor([[[0.25, 0.75]]]), torch.zeros(1, 3, dtype=torch.long), torch.tensor([3, 1]), 5
    )
    second = DraftLaw(torch.tensor([[[0.5, 0.5]]]), torch.zeros(1, 3, dtype=torch.long), None, 5)
    law = SeveralLaws([first, second], torch.tensor([0, 0, 1]))
    assert law.of(torch.tensor([1])).tolist() == [[0, 0.75, 0, 0.25, 0]]
    assert law.of(torch.tensor([2])).tolist() == [[0.5, 0.5, 0, 0, 0]]
    assert law.support().tolist() == [True, True, False, True, False]
