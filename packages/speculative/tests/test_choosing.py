"""How children are drawn from a draft law."""

import itertools

import numpy as np
import pytest
import torch
from fivefold_lm import RandomStream, Sampler, SamplingConfig
from fivefold_speculative import DecodeState, Proposal
from fivefold_speculative.checks import chi_square_check
from fivefold_speculative.drafters.choosing import choose_children

ROWS = 40_000


def children(law, width, proposal):
    ones = torch.ones(ROWS, dtype=torch.long)
    sampler = Sampler(SamplingConfig(temperature=1.0), vocab_size=len(law))
    state = DecodeState(
        tokens=torch.zeros(ROWS, 4, dtype=torch.long),
        lengths=ones,
        active=ones > 0,
        request=torch.arange(ROWS),
        noise=RandomStream(11),
        sampler=sampler,
        history=None,
        alive=True,
    )
    logits = torch.tensor(law).log().float().expand(ROWS, 1, -1)
    words, _ = choose_children(logits, width, proposal, sampler, state, depth=0)
    return words[:, 0].numpy()


def counts_of(words, vocab):
    counts = np.zeros((vocab,) * words.shape[1])
    np.add.at(counts, tuple(words.T), 1)
    return counts


@pytest.mark.parametrize("law", [[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01]])
def test_ordered_pairs_without_replacement_have_their_law(law):
    exact = np.zeros((4, 4))
    for a, b in itertools.permutations(range(4), 2):
        exact[a, b] = law[a] * law[b] / (1 - law[a])
    counts = counts_of(children(law, 2, Proposal.WITHOUT_REPLACEMENT), 4)
    check = chi_square_check("pairs", counts, exact, 1e-6)
    assert check.passed, check.detail


def test_words_of_probability_zero_come_last_and_uniformly():
    words = children([0.6, 0.0, 0.4, 0.0], 4, Proposal.WITHOUT_REPLACEMENT)
    assert set(words[:, :2].ravel()) == {0, 2}
    assert set(words[:, 2:].ravel()) == {1, 3}
    third = np.bincount(words[:, 2], minlength=4)
    check = chi_square_check("third draw", third, np.array([0, 0.5, 0, 0.5]), 1e-6)
    assert check.passed, check.detail


def test_draws_with_replacement_are_independent():
    law = np.array([0.5, 0.3, 0.2])
    counts = counts_of(children(law.tolist(), 3, Proposal.SAMPLED), 3)
    exact = np.einsum("i,j,k->ijk", law, law, law)
    check = chi_square_check("triples", counts, exact, 1e-6)
    assert check.passed, check.detail


def test_topk_takes_the_best_in_order():
    assert children([0.1, 0.4, 0.2, 0.3], 3, Proposal.POINT_MASS)[0].tolist() == [1, 3, 2]
