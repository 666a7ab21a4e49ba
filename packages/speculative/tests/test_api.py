"""`generate` and `stream` of the Python API are what the command line runs."""

import pytest
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_speculative import Answer, generate, stream
from fivefold_speculative.toy import plain_greedy

MODEL = tiny_model(vocab=24)
SETTINGS = {"model": MODEL, "max_new_tokens": 16}


def test_a_text_gives_one_answer_with_its_figures(cache):
    answer = generate("abcabc", drafting="prompt_lookup", **SETTINGS)
    assert isinstance(answer, Answer)
    assert answer.token_ids == plain_greedy(MODEL, MODEL.encode("abcabc"), 16)[0]
    assert answer.text == MODEL.decode(answer.token_ids)
    assert answer.mean_acceptance_length > 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_list_gives_all_samples_in_order(cache, batch_size):
    settings = {**SETTINGS, "temperature": 1.2, "num_samples": 2}
    answers = generate(["abc", "hello"], batch_size=batch_size, **settings)
    assert [(a.prompt, a.sample) for a in answers] == [
        ("abc", 0),
        ("abc", 1),
        ("hello", 0),
        ("hello", 1),
    ]
    alone = generate(["abc"], **settings)
    assert [a.token_ids for a in alone] == [a.token_ids for a in answers[:2]]


def test_pieces_of_a_stream_are_the_text(cache):
    pieces = list(stream("abcabc", drafting="prompt_lookup", **SETTINGS))
    assert len(pieces) > 1
    assert "".join(pieces) == generate("abcabc", **SETTINGS).text


def test_a_module_and_a_tokenizer_are_a_model(cache):
    answer = generate("abcabc", model=(MODEL.module, MODEL.tokenizer), max_new_tokens=16)
    assert answer.text == generate("abcabc", **SETTINGS).text


def test_a_module_is_a_draft(cache):
    answer = generate(
        "abcabc", drafting={"expansion": {"widths": [2, 1]}}, draft=MODEL.module, **SETTINGS
    )
    assert answer.text == generate("abcabc", **SETTINGS).text
    assert answer.mean_acceptance_length > 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"drafting": "no_such"}, "no such drafting method"),
        ({"drafting": {"chain": {"length": 0}}}, "length"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"rule": "multi_step", "drafting": "prompt_lookup"}, "multi_step"),
    ],
)
def test_what_the_command_line_refuses_is_refused(cache, settings, named):
    with pytest.raises(UserError, match=named):
        generate("abc", **{**SETTINGS, **settings})


def test_a_misspelt_setting_is_a_type_error(cache):
    with pytest.raises(TypeError, match="temprature"):
        generate("abc", temprature=1, **SETTINGS)
