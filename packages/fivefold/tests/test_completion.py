"""Tab completes tasks, keys, methods, options and enum values."""

import pytest
from fivefold.completion import suggestions


@pytest.mark.parametrize(
    ("typed", "some", "others"),
    [
        ("fivefold ", {"toy", "cache", "plugins"}, {"text="}),
        ("fivefold", {"toy"}, set()),
        ("fivefold to", {"toy"}, {"cache"}),
        ("fivefold -m ", {"toy"}, set()),
        ("fivefold toy ", {"text=", "count=", "drafting=", "shape=", "plan", "debug="}, {"cache"}),
        ("fivefold toy pl", {"plan"}, {"plugins"}),
        ("fivefold toy plan ", {"debug="}, {"text="}),
        ("fivefold toy te", {"text="}, {"count="}),
        ("fivefold toy drafting=", {"drafting=bold", "drafting=steady"}, {"drafting=far"}),
        ("fivefold toy drafting=b", {"drafting=bold"}, {"drafting=steady"}),
        ("fivefold drafting=bold toy drafting.", {"drafting.nodes=", "drafting.draft="}, set()),
        ("fivefold toy drafting.", set(), {"drafting.nodes="}),
        ("fivefold toy shape=", {"shape=small", "shape=wide"}, set()),
        ("fivefold toy shape.", {"shape.name=", "shape.sides="}, set()),
        ("fivefold toy mood=", {"mood=calm", "mood=very-loud"}, set()),
        ("fivefold toy debug=t", {"debug=true"}, {"debug=false"}),
        ("fivefold toy text='a, b\"' cou", {"count="}, set()),
        ("fivefold toy text='not closed cou", set(), set()),
        ("fivefold toy --multirn cou", {"count="}, set()),
        ("fivefold nothing ", set(), {"text="}),
    ],
)
def test_the_word_being_typed_is_completed(toys, tmp_path, monkeypatch, typed, some, others):
    monkeypatch.chdir(tmp_path)
    found = set(suggestions(typed, toys))
    assert some <= found
    assert not others & found


def test_files_are_completed_too(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("")
    assert suggestions("fivefold toy text=./pro", toys) == ["text=./prompts.txt"]


def test_the_shell_is_told_how_to_ask(here):
    status, out, _ = here("-sc", "install=bash")
    assert status == 0
    assert "hydra_bash_completion" in out
    assert "-sc query=bash" in out


def test_the_shell_asks_and_is_answered(here, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "fivefold toy cou")
    assert here("-sc", "query=bash")[:2] == (0, "count=\n")
    assert here("-sc", "query=fish")[:2] == (0, "count=\n")
