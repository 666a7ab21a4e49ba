"""Scores of children against exact logarithms and against draws of what they model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fivefold_lm import Sampler, SamplingConfig
from fivefold_specexec.scoring import Words, best_children, likely_draws

WORDS = 12
DRAWS = 200_000


def test_scores_are_the_exact_logarithms_in_the_tail_too():
    logits = torch.tensor([[[0.0, -3.0, -25.0, -40.0]]])  # log(p + 1e-4) would flatten the last two
    words, logp = best_children(logits, 4)
    exact = logits.double().log_softmax(-1)
    assert words.tolist() == [[[0, 1, 2, 3]]]
    torch.testing.assert_close(logp, exact, atol=1e-6, rtol=1e-6)


def test_a_certain_token_never_scores_above_its_parent():
    logits = torch.randn(1, 4000, 3, generator=torch.Generator().manual_seed(0)) * 40
    assert float(best_children(logits, 3)[1].max()) <= 0


def logits_of(seed):
    return 2 * torch.randn(1, 1, WORDS, generator=torch.Generator().manual_seed(seed))


def near(found, shares):
    """Within five standard errors of shares counted over `DRAWS` draws."""
    return np.all(np.abs(found - shares) <= 5 * np.sqrt(shares * (1 - shares) / DRAWS) + 1e-4)


@pytest.mark.parametrize("error", [0.2, 1.0, 3.0])
def test_greedy_scores_are_the_shares_of_the_best_word_under_an_error(error):
    logits = logits_of(1)
    words, score = best_children(logits / error, WORDS)
    noise = np.random.default_rng(2).gumbel(scale=error, size=(DRAWS, WORDS))
    best = (logits.numpy()[0, 0] + noise).argmax(1)
    shares = np.bincount(best, minlength=WORDS) / DRAWS
    assert near(score.exp()[0, 0].numpy(), shares[words[0, 0].numpy()])


@pytest.mark.parametrize("error", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("uniform", [0.003, 0.4, 0.98])
@pytest.mark.parametrize("reordered", [False, True])
def test_sampled_scores_are_the_shares_of_draws_at_the_known_number(error, uniform, reordered):
    logits, temperature = logits_of(3), 0.6
    ids = torch.arange(WORDS)
    order = None
    if reordered:
        ids = torch.randperm(50, generator=torch.Generator().manual_seed(4))[:WORDS]
        order = Words.of(ids)
    sampler = Sampler(SamplingConfig(temperature=temperature), vocab_size=WORDS)
    at = torch.full((1, 1), uniform, dtype=torch.double)
    words, score = likely_draws(logits, at, WORDS, error, sampler, order)

    law = (logits[0, 0].double() / temperature).softmax(-1).numpy()
    by_id = np.argsort(ids.numpy())
    edges = np.cumsum(law[by_id])[:-1]
    shift = np.random.default_rng(5).logistic(scale=error / temperature, size=(DRAWS, 1))
    moved = 1 / (1 + np.exp(-(np.log(edges / (1 - edges)) + shift)))
    drawn = by_id[(moved < uniform).sum(1)]
    shares = np.bincount(drawn, minlength=WORDS) / DRAWS
    assert near(score.exp()[0, 0].numpy(), shares[words[0, 0].numpy()])


def test_a_small_error_leaves_the_word_that_is_drawn():
    sampler = Sampler(SamplingConfig(temperature=0.8, top_p=0.9), vocab_size=WORDS)
    logits = torch.randn(2, 5, WORDS, generator=torch.Generator().manual_seed(6))
    uniform = torch.rand(2, 5, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    words, score = likely_draws(logits, uniform, WORDS, 1e-6, sampler)
    law = sampler.law(logits.flatten(0, 1))
    drawn = Sampler.draw(law, uniform.flatten())
    assert words.gather(-1, score.argmax(-1, keepdim=True)).flatten().tolist() == drawn.tolist()
    assert float(score.max(-1).values.min()) > math.log(0.99)


def test_words_that_are_cut_off_are_no_children():
    sampler = Sampler(SamplingConfig(temperature=0.8, top_k=3), vocab_size=WORDS)
    at = torch.full((1, 1), 0.5, dtype=torch.double)
    _, score = likely_draws(logits_of(8), at, WORDS, 0.5, sampler)
    assert int((score > -math.inf).sum()) == 3
