"""Text as it streams is the text of all tokens."""

import pytest
from fivefold_lm.testing import tiny_tokenizer
from fivefold_lm.text import TextStream
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer():
    """One token a byte: a character may take four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def metaspace_tokenizer():
    """Words that carry their space, which the first word of a text loses."""
    words = {"▁the": 0, "▁sky": 1, "s": 2, "▁": 3, "<unk>": 4}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core)


BYTES = byte_tokenizer()


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20), sizes=st.lists(st.integers(0, 4), max_size=40))
def test_pieces_joined_are_the_text(text, sizes):
    ids = BYTES(text)["input_ids"]
    stream = TextStream(BYTES)
    pieces, start = [], 0
    for size in [*sizes, len(ids)]:
        pieces.append(stream.push(ids[start : start + size]))
        start += size
    assert "".join(pieces) + stream.flush() == text


@given(text=st.text(min_size=1, max_size=8))
def test_no_half_character_is_shown(text):
    stream = TextStream(BYTES)
    pieces = [stream.push([token]) for token in BYTES(text)["input_ids"]]
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_broken_bytes_are_shown_at_the_end():
    ids = BYTES("é")["input_ids"][:1]
    stream = TextStream(BYTES)
    assert stream.push(ids) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_words_keep_the_spaces_between_them():
    tokenizer = metaspace_tokenizer()
    stream = TextStream(tokenizer)
    pieces = [stream.push([token]) for token in [0, 1, 2, 0]]
    assert pieces == ["the", " sky", "s", " the"]


def test_context_decides_how_the_first_token_is_written():
    stream = TextStream(metaspace_tokenizer(), context=[0])
    assert stream.push([1]) == " sky"


@pytest.mark.parametrize("skip", [True, False])
def test_special_tokens_are_left_out_unless_asked_for(skip):
    stream = TextStream(tiny_tokenizer(30), skip_special_tokens=skip)
    assert stream.push([1, 2]) + stream.push([0]) == ("ab" if skip else "ab<eos>")
