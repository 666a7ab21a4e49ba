"""Tab completes tasks, keys, methods, options and enum values."""

import pytest
from fivefold.completion import suggestions
from fivefold.shim import FLAG_VALUES


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
        ("fivefold toy mood", {"mood=", "moods="}, {"mood=calm"}),
        ("fivefold toy wor", {"words="}, {"words."}),
        ("fivefold toy words=", {"words=["}, {"words=[calm]"}),
        ("fivefold toy lab", {"labels="}, {"labels."}),
        ("fivefold toy moods=", {"moods=[calm]", "moods=[very-loud]"}, {"moods=calm"}),
        ("fivefold toy moods=[v", {"moods=[very-loud]"}, {"moods=[calm]"}),
        ("fivefold toy tone=", {"tone=plain", "tone=soft", "tone=sharp"}, set()),
        ("fivefold toy tone=so", {"tone=soft"}, {"tone=plain"}),
        ("fivefold toy count=", {"count=1"}, set()),
        ("fivefold toy sha", {"shape=", "shape."}, set()),
        ("fivefold toy ", {"fixed=", "shape."}, {"drafting.", "fixed.", "hydra"}),
        ("fivefold cache ", {"list", "size", "clear", "action="}, {"toy"}),
        ("fivefold cache c", {"clear"}, {"cache"}),
        ("fivefold cache clear ", {"entry="}, {"clear", "toy"}),
        ("fivefold toy hydra.run.", {"hydra.run.dir="}, set()),
        ("fivefold toy hydra/launch", {"hydra/launcher="}, set()),
        ("fivefold toy +", set(), {"+drafting=", "+shape=", "+hydra"}),
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


SHARED = {"--help", "--cfg", "--info", "--hydra-help", "--version", "--resolve"}


@pytest.mark.parametrize(
    ("typed", "some", "others"),
    [
        ("fivefold -", SHARED | {"--multirun", "--shell-completion"}, {"--json", "-m"}),
        ("fivefold toy --", SHARED | {"--multirun"}, {"--json", "--shell-completion", "text="}),
        ("fivefold plugins --", SHARED | {"--json"}, {"--multirun"}),
        ("fivefold toy --c", {"--cfg", "--config-dir"}, {"--help", "--config-name"}),
        ("fivefold toy --cfg ", {"job", "hydra", "all"}, {"text="}),
        ("fivefold --info d", {"defaults", "defaults-tree"}, {"config", "toy"}),
        ("fivefold toy --info cou", {"count="}, {"config"}),
    ],
)
def test_flags_that_have_a_use_are_completed(toys, tmp_path, monkeypatch, typed, some, others):
    monkeypatch.chdir(tmp_path)
    found = set(suggestions(typed, toys))
    assert some <= found
    assert not others & found


def test_what_may_follow_a_flag_is_what_hydra_takes():
    from hydra._internal.utils import get_args_parser

    actions = {flag: a for a in get_args_parser()._actions for flag in a.option_strings}
    for flag, values in FLAG_VALUES.items():
        assert set(values) == set(actions[flag].choices)


def test_compositions_and_options_in_files_are_completed(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "one.yaml").write_text("")
    assert suggestions("fivefold toy +", toys) == ["+experiment="]
    assert suggestions("fivefold toy +experiment=", toys) == ["+experiment=one"]
    assert suggestions("fivefold toy exp", toys) == []  # without its + it composes nothing


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
