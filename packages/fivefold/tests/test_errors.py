"""A `UserError` is one line: problem, setting with its value, remedy."""

import pickle
from enum import StrEnum
from pathlib import Path

import pytest
from fivefold import UserError, nearest
from fivefold.errors import near_settings, one_line, shown
from hydra.core.override_parser.overrides_parser import OverridesParser


class Mood(StrEnum):
    CALM = "calm"


def test_the_line_names_problem_setting_value_and_remedy():
    error = UserError("too big", setting="drafting.nodes", value=900, remedy="lower it")
    assert str(error) == "too big (drafting.nodes=900); lower it"
    assert error.describe() == {
        "problem": "too big",
        "setting": "drafting.nodes",
        "remedy": "lower it",
    }


def test_what_is_not_known_is_left_out():
    assert str(UserError("bad")) == "bad"
    assert str(UserError("bad", setting="x")) == "bad (x)"
    assert str(UserError("bad", setting="x", value=None)) == "bad (x=null)"
    assert str(UserError("bad", remedy="do")) == "bad; do"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (Mood.CALM, "calm"),
        (Path("a/b"), "a/b"),
        (["a", 1], "[a,1]"),
        (["a b", "./c-d_1%"], "[a b,./c-d_1%]"),
        (["", "!", " a", "a,b", 'a"\\'], """["","!"," a","a,b","a\\"\\\\"]"""),
        ([Mood.CALM, [True, None]], "[calm,[true,null]]"),
        ({"a": "b:c"}, '{a:"b:c"}'),
        ({"a": 1}, "{a:1}"),
        ("a\nb\x1b", "a\\nb\\x1b"),
    ],
)
def test_values_are_shown_as_they_would_be_written(value, text):
    assert shown(value) == text


def test_a_list_of_text_is_shown_as_it_can_be_written(awkward):
    if awkward.isprintable():  # what is not is shown as an escape
        line = f"words={shown([awkward, 'x'])}"
        value = OverridesParser.create().parse_override(line).value()
        assert [str(found) for found in value] == [READ_ALIKE.get(awkward, awkward), "x"]


READ_ALIKE = {"true": "True", "null": "None", "1e3": "1000.0"}


def test_long_values_are_cut_in_the_middle():
    cut = shown("a" * 500 + "/" + "b" * 500)
    assert len(cut) == 80
    assert cut == "a" * 39 + "…" + "b" * 40


def test_it_survives_the_way_to_another_process():
    error = UserError("bad", setting="x", value=object, remedy="do")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert not pickle.loads(pickle.dumps(UserError("bad", setting="x"))).has_value


@pytest.mark.parametrize(
    ("word", "choices", "remedy"),
    [
        ("chian", ["chain", "none"], "did you mean chain? (chain, none)"),
        ("xyz", ["chain", "none"], "choose one of chain, none"),
        ("nodes", ["drafting.nodes"], "did you mean drafting.nodes?"),
        ("xyz", ["chain"], "the only choice is chain"),
        ("xyz", [], "there is nothing to choose from"),
        ("chian", ["chain", *map(str, range(30))], "did you mean chain?"),
    ],
)
def test_the_nearest_names_are_offered(word, choices, remedy):
    assert nearest(word, choices) == remedy


KEYS = ["limit", "output", "prompts", "model.name", "sampling.min_p", "sampling.temperature"]


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("input", []),
        ("prompt", ["prompts"]),
        ("temprature", ["sampling.temperature"]),
        ("sampling.minp", ["sampling.min_p"]),
        ("sampling.nothing", []),
        ("Model.Name", ["model.name"]),
        ("outputs", ["output"]),
        ("", []),
    ],
)
def test_a_setting_is_near_one_beside_it_or_one_that_is_really_close(key, close):
    assert near_settings(key, KEYS) == close


def test_no_line_break_of_any_kind_survives():
    assert one_line("a\r\n\u2028\x85b").splitlines() == ["a\\r\\n\\u2028\\x85b"]
