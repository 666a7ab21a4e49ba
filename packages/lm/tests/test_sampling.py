"""The sampler against transformers' own processors, and draws against the law."""

import math

import pytest
import torch
from fivefold_lm.config import SamplingConfig
from fivefold_lm.history import History
from fivefold_lm.sampling import HEAD, Sampler, top_k, top_p, top_p_sorted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PROMPTS = [[1, 4, 4], [7], [2, 3, 5, 7, 11]]
TEXTS = [[9, 9], [1, 2], [0, 4]]


def logits(vocab=50, seed=0, batch=3):
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def stock(config):
    """Transformers' own processors, in the order in which it runs them."""
    chain = LogitsProcessorList()
    if config.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.temperature not in (0, 1):
        chain.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        chain.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        chain.append(TopPLogitsWarper(config.top_p))
    if config.min_p:
        chain.append(MinPLogitsWarper(config.min_p))
    return chain


def written(history):
    for step in range(2):
        tokens = torch.tensor([text[step] for text in TEXTS])
        history = history.with_tokens(tokens, torch.ones(3, dtype=torch.bool))
    return history


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("cuts", [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_scores_are_those_of_transformers(temperature, cuts, penalty):
    config = SamplingConfig(temperature=temperature, repetition_penalty=penalty, **cuts)
    sampler = Sampler(config, vocab_size=50)
    history = sampler.history(PROMPTS)
    scores = sampler.scores(logits(), history and written(history))
    kept = config if temperature else SamplingConfig(repetition_penalty=penalty)
    for row in range(3):
        ids = torch.tensor([PROMPTS[row] + TEXTS[row]])
        wanted = stock(kept)(ids, logits()[row : row + 1])
        torch.testing.assert_close(scores[row : row + 1], wanted, atol=0, rtol=0)


def test_all_cuts_together_are_those_that_generate_prepares():
    settings = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02}
    from fivefold_lm.testing import tiny_model

    module = tiny_model(vocab=50).module
    prepared = module._get_logits_processor(
        GenerationConfig(do_sample=True, repetition_penalty=1.2, **settings),
        input_ids_seq_length=3,
        encoder_input_ids=torch.tensor([PROMPTS[0]]),
    )
    sampler = Sampler(SamplingConfig(repetition_penalty=1.2, **settings), vocab_size=50)
    history = sampler.history(PROMPTS[:1])
    wanted = prepared(torch.tensor([PROMPTS[0]]), logits()[:1])
    torch.testing.assert_close(sampler.scores(logits()[:1], history), wanted, atol=0, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    p=st.floats(0.01, 0.999),
    scale=st.floats(0.05, 8),
    vocab=st.sampled_from([HEAD + 1, 3000]),
)
def test_searched_nucleus_is_the_sorted_one(seed, p, scale, vocab):
    scores = logits(vocab, seed, batch=2) * scale
    found, wanted = top_p(scores, p), top_p_sorted(scores, p)
    assert torch.equal(found[wanted.isfinite() & found.isfinite()],
                       scores[wanted.isfinite() & found.isfinite()])  # fmt: skip
    parted = wanted.isfinite() != found.isfinite()  # where sums in float32 round to either side
    law, order = scores.double().softmax(-1).sort(descending=True)
    before = torch.zeros_like(law).scatter(1, order, law.cumsum(-1) - law)
    assert ((before[parted] - p).abs() < 1e-6).all()


def test_equals_of_the_kth_stay():
    assert top_k(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 1).isfinite().sum() == 2


def test_a_top_k_above_the_vocabulary_cuts_nothing():
    assert torch.equal(top_k(logits(), 99), logits())


def test_presence_penalty_looks_at_the_text_alone_and_once():
    sampler = Sampler(SamplingConfig(presence_penalty=0.7), vocab_size=50)
    scores = sampler.scores(logits(), written(sampler.history(PROMPTS)))
    wanted = logits()
    for row, text in enumerate(TEXTS):
        for token in set(text):
            wanted[row, token] -= 0.7
    torch.testing.assert_close(scores, wanted)


def test_a_history_grows_only_where_a_row_is_alive():
    history = History.of(PROMPTS, 50)
    longer = history.with_tokens(torch.tensor([8, 8, 8]), torch.tensor([True, False, True]))
    assert longer.seen[:, 8].tolist() == [True, False, True]
    assert longer.written[:, 8].tolist() == [True, False, True]
    assert longer.lengths.tolist() == [4, 1, 6]
    assert longer.ids[0, :4].tolist() == [1, 4, 4, 8]
    assert history.written.sum() == 0
    assert longer.select(torch.tensor([2, 2])).lengths.tolist() == [6, 6]


def test_padding_is_not_seen():
    assert not History.of([[1], [2, 3]], 8).seen[0, [0, 2, 3]].any()


def test_stock_processors_get_each_rows_true_ids():
    chain = LogitsProcessorList([NoRepeatNGramLogitsProcessor(2)])
    sampler = Sampler(SamplingConfig(), chain, vocab_size=50)
    history = sampler.history([[1, 2, 3, 1], [5, 5], [3]])
    scores = sampler.scores(logits(), history)
    banned = [(row, int(t)) for row, t in (~scores.isfinite()).nonzero().tolist()]
    assert banned == [(0, 2), (1, 5)]


def test_greedy_law_is_one_token():
    law = Sampler(SamplingConfig(), vocab_size=50).law(logits())
    assert torch.equal(law.argmax(-1), logits().argmax(-1))
    assert law.sum().item() == 3


def test_law_is_softmax_of_the_scores():
    sampler = Sampler(SamplingConfig(temperature=0.5, top_k=5), vocab_size=50)
    law = sampler.law(logits())
    assert ((law > 0).sum(-1) == 5).all()
    torch.testing.assert_close(law.sum(-1), torch.ones(3))


def test_draws_follow_the_law():
    law = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0]])
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = Sampler.draw(law.expand(100_000, -1), uniform)
    counts = torch.bincount(drawn, minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert stats.chisquare(counts[[1, 3, 4]].numpy(), [50_000, 30_000, 20_000]).pvalue > 0.5


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 0.7]), min_size=2, max_size=9),
    u=st.sampled_from([2.0**-53, 0.25, 0.5, 1 - 2.0**-53]),
)
def test_a_token_of_probability_zero_is_never_drawn(weights, u):
    law = torch.tensor([[*weights, 0.5, 0.0]])
    token = int(Sampler.draw(law, torch.tensor([u], dtype=torch.float64)))
    assert law[0, token] > 0
    assert math.isfinite(float(law[0, token]))


@pytest.mark.parametrize("size", [64, 4 * HEAD])
def test_words_as_likely_as_the_last_one_kept_stay_whoever_is_beside_them(size):
    """Seven equal words; a nucleus of half of them cuts between equals, and so keeps them all."""
    tied = torch.full((1, size), -30.0)
    tied[0, 3:10] = 0.0
    flat = torch.zeros(1, size)  # sends a whole batch to the search that sorts everything
    for p in (0.3, 0.5, 0.9):
        alone = top_p(tied, p)
        assert alone.isfinite().sum() == 7
        assert torch.equal(top_p(torch.cat([tied, flat]), p)[:1], alone)
        assert torch.equal(top_p_sorted(tied, p), alone)
