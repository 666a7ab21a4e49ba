"""Prompt look-up against a plain search."""

import pytest
import torch
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_speculative import NoCorrection, Request, Session, decode, rule_for
from fivefold_speculative.config import PromptLookupConfig
from fivefold_speculative.drafters.prompt_lookup import build, look_up
from fivefold_speculative.toy import toy_target
from hypothesis import given
from hypothesis import strategies as st


def plain_look_up(text, num_tokens, max_ngram, min_ngram):
    for length in range(max_ngram, min_ngram - 1, -1):
        for end in range(len(text) - 2, length - 2, -1):
            if length <= len(text) and text[end - length + 1 : end + 1] == text[-length:]:
                grown = list(text)
                for step in range(num_tokens):
                    grown.append(grown[end + 1 + step])
                return grown[len(text) :]
    return None


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 2),
)
def test_the_longest_and_then_latest_match_is_continued(texts, num_tokens, longest, shortest):
    longest = max(longest, shortest)
    width = max(map(len, texts)) + 3
    tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    drafted, found = look_up(tokens, lengths, num_tokens, longest, shortest)
    for row, text in enumerate(texts):
        expected = plain_look_up(text, num_tokens, longest, shortest)
        assert bool(found[row]) == (expected is not None)
        if expected is not None:
            assert drafted[row].tolist() == expected


@pytest.mark.parametrize(("text", "expected"), [([1, 2, 3, 1, 2], [3, 1, 2, 3]), ([7, 7], [7] * 4)])
def test_a_continuation_goes_on_with_itself(text, expected):
    tokens = torch.tensor([[*text, 0, 0, 0, 0]])
    drafted, found = look_up(tokens, torch.tensor([len(text)]), 4, 3, 1)
    assert drafted[0].tolist() == expected
    assert found.all()


def test_no_match_costs_a_pass_of_one_node():
    """Five different tokens, and no run of them stood in the text before."""
    model = toy_target()
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    session = Session(model, [Request([0, 1, 2, 3, 4], 1)], sampler, FullAttention())
    drafter = build(PromptLookupConfig(), session)
    (outcome,) = decode(session, drafter, rule_for("auto", drafter, sampler), NoCorrection())
    assert outcome.num_nodes == 1
