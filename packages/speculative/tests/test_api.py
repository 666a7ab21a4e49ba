"""`generate` and `stream` of the Python API are what the command line runs."""

import pytest
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_speculative import Answer, Settings, generate, stream
from fivefold_speculative.api import contents_of
from fivefold_speculative.choosing import choose_drafting
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


HELLO = [{"role": "user", "content": "hi"}]


def test_one_conversation_gives_one_answer_and_a_list_of_them_a_list(cache, template):
    model = tiny_model(vocab=24)
    model.tokenizer.chat_template = template
    settings = {"model": model, "max_new_tokens": 6}
    answer = generate(HELLO, **settings)
    assert answer.prompt == HELLO
    assert answer.text == "".join(stream(HELLO, **settings))
    assert generate([HELLO, "ab"], **settings)[0].text == answer.text


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", r"the prompt is empty \(prompt\)"),
        (" \n", "the prompt is empty"),
        (5, "int is neither a text nor a conversation"),
        (None, "NoneType is neither"),
        ({"role": "user", "content": "hi"}, "dict is neither"),
        (["ab", 5], r"\(prompt\[1\]\)"),
        (["ab", ""], r"the prompt is empty \(prompt\[1\]\)"),
        ([{"role": "user"}], "`role` and `content`"),
        ([HELLO, []], "at least one message"),
    ],
)
def test_what_is_no_prompt_is_refused_by_its_place(prompt, named):
    with pytest.raises(UserError, match=named):
        contents_of(prompt)


def test_an_empty_prompt_is_refused_before_a_model_is_looked_for():
    with pytest.raises(UserError, match="the prompt is empty"):
        generate("", model="no/such/model")
    with pytest.raises(UserError, match="the prompt is empty"):
        next(stream("", model="no/such/model"))


@pytest.mark.parametrize(
    ("drafting", "draft", "named"),
    [
        (None, 5, r"int is neither .*\(draft\); .*shipped, or a drafting method \(.*chain, "),
        (None, {"nope": {}}, r"no such drafting method \(draft="),
        (None, {"a": {}, "b": {}}, r"cannot read .*\(draft\)"),
        (None, {"chain": {"lenght": 2}}, r"lenght=2 of chain \(draft=.*did you mean length"),
        ("prompt_lookup", "shipped", r"takes no draft model \(draft\)"),
        ({"chain": {"length": 0}}, None, r"length=0 of chain \(drafting="),
        (5, None, r"cannot read 5 as a method \(drafting\)"),
    ],
)
def test_what_is_no_draft_is_refused_by_the_name_of_its_argument(drafting, draft, named):
    with pytest.raises(UserError, match=named):
        choose_drafting(drafting, draft)


def test_a_draft_that_does_not_exist_is_named_as_draft_with_what_could_stand_there(cache):
    with pytest.raises(UserError) as caught:
        generate("abc", draft="./promt_lookup", **SETTINGS)
    line = str(caught.value)
    assert line.startswith("there is no such file or folder (draft=./promt_lookup); ")
    assert "did you mean prompt_lookup? else set draft=shipped" in line
    assert "smollm2" not in line


def test_the_settings_that_the_help_names_can_be_looked_up():
    assert "fivefold_speculative.Settings" in generate.__doc__
    assert {"temperature", "drafting", "draft"} <= set(Settings.__annotations__)


def test_a_misspelt_setting_is_a_type_error(cache):
    with pytest.raises(TypeError, match="temprature"):
        generate("abc", temprature=1, **SETTINGS)
