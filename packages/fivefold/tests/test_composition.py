"""Settings are composed, checked and handed over as the dataclasses that describe them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from fivefold import Choice, UserError
from fivefold.composing import validated
from fivefold.testing import compose


@dataclass
class WantsName:
    name: str = "???"


@pytest.fixture
def composed(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compose("toy", overrides, plugins=toys)


def test_defaults_are_the_dataclasses_own(composed):
    run = composed()
    assert (run.config.text, run.config.count, run.config.path) == ("hello", 1, Path("here"))
    assert run.method("drafting").name == "steady"
    assert type(run.settings("drafting")).__name__ == "SteadyConfig"
    assert run.debug is False


def test_a_method_brings_its_settings(composed):
    run = composed("drafting.nodes=3", "drafting=bold")
    assert (run.settings("drafting").nodes, run.settings("drafting").draft) == (3, "shipped")
    assert run.build("drafting", 1, 2) == ("BoldConfig", (1, 2))


def test_the_last_of_two_choices_counts(composed):
    run = composed("drafting=bold", "count=1", "drafting=steady", "count=2", "count=1")
    assert (run.method("drafting").name, run.config.count) == ("steady", 1)


def test_code_sees_no_config_of_omegaconf(composed):
    run = composed(
        "words=[a,b]",
        "labels.a=b",
        "+labels.c=d",
        "labels.e=f",
        "mood=very-loud",
        "moods=[calm,very-loud]",
    )
    assert type(run.config.words) is list
    assert type(run.config.labels) is dict
    assert run.config.labels == {"a": "b", "c": "d", "e": "f"}
    assert [type(mood).__name__ for mood in run.config.moods] == ["Mood", "Mood"]


@pytest.mark.parametrize("value", ["very-loud", "VERY_LOUD", "very_loud"])
def test_an_enum_is_chosen_by_its_value_or_its_name(composed, value):
    assert composed(f"mood={value}").config.mood == "very-loud"


@pytest.mark.parametrize(
    ("given", "words"),
    [("[a,b]", ["a", "b"]), ("[12,'x, y',\"z]\"]", ["12", "x, y", "z]"]), ("[]", [])],
)
def test_a_list_of_text_is_hydras_list(composed, given, words):
    assert composed(f"words={given}").config.words == words


def test_a_number_may_be_null_where_the_field_allows_it(composed):
    assert composed("ratio=0.5").config.ratio == 0.5
    assert composed("ratio=0.5", "ratio=null").config.ratio is None


@pytest.mark.parametrize(
    ("given", "name", "sides"),
    [
        ([], "small", 4),
        (["shape=wide"], "wide", 6),
        (["shape=org/model"], "org/model", 3),
        (["shape=/a folder/file.gguf", "shape.sides=9"], "/a folder/file.gguf", 9),
        (["shape=wide", "shape.name=other"], "other", 6),
    ],
)
def test_a_node_takes_an_option_or_else_a_name(composed, given, name, sides):
    shape = composed(*given).composition.nodes["shape"]
    assert (shape.name, shape.sides) == (name, sides)


def test_an_experiment_composes_method_node_and_settings(composed, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "loud.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /drafting: bold\n  - override /shape: wide\n"
        "count: 7\ndrafting:\n  nodes: 5\n"
    )
    run = composed("+experiment=loud", "drafting.draft=a,b")
    assert (run.config.count, run.settings("drafting").nodes) == (7, 5)
    assert run.settings("drafting").draft == "a,b"
    assert composed("+experiment=loud", "count=8").config.count == 8
    assert composed("+experiment=loud", "shape=x/y").composition.nodes["shape"].sides == 3


def test_a_file_may_add_an_option_to_a_node(composed, tmp_path):
    (tmp_path / "conf" / "shape").mkdir(parents=True)
    (tmp_path / "conf" / "shape" / "mine.yaml").write_text("name: mine\nsides: 12\n")
    shape = composed("shape=mine").composition.nodes["shape"]
    assert (shape.name, shape.sides) == ("mine", 12)


def test_a_file_named_like_a_task_is_not_taken_for_it(composed, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "toy.yaml").write_text("count: 9\n")
    assert composed().config.count == 1


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\ncuont: 7\n",
        "# @package _global_\ncount: many\n",
        "# @package _global_\ndefaults:\n  - override /drafting: blod\n",
        "# @package _global_\ncount: [\n",
        "# @package _global_\ncount: ${nothing}\n",
        "# @package _global_\ncount: -1\n",
    ],
)
def test_a_wrong_experiment_is_a_user_error(composed, tmp_path, text):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        composed("+experiment=wrong")
    assert "\n" not in str(caught.value)


def test_compositions_of_a_wheel_are_found(wheel, command_on, toy_folder):
    folder = wheel.folder
    for file in toy_folder.glob("*.py"):
        (folder / file.name).write_text(file.read_text())
    (folder / "set_up" / "conf" / "experiment").mkdir(parents=True)
    (folder / "set_up" / "conf" / "__init__.py").write_text("")
    (folder / "set_up" / "conf" / "experiment" / "many.yaml").write_text(
        "# @package _global_\ncount: 3\n"
    )
    wheel("set-up", {"set_up/__init__": "from toy import fivefold_tasks"}, entry="a = set_up")
    wheel("toy-methods", {"toy_methods": "from toy import fivefold_drafting"})
    done = command_on(folder)("toy", "+experiment=many", "--cfg", "job")
    assert "count: 3" in done.stdout, done.stderr


def test_another_method_can_be_chosen_with_its_own_settings(composed):
    run = composed("drafting=bold", "drafting.nodes=3")
    other = run.choose("drafting", "bold", {"nodes": 4, "draft": "${x}, 12"})
    assert isinstance(other, Choice)
    assert (other.settings.nodes, other.settings.draft) == (4, "${x}, 12")
    assert run.settings("drafting").nodes == 3
    assert other.build() == ("BoldConfig", ())
    assert [method.name for method in run.methods("drafting")] == ["bold", "gone", "steady"]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("blod", {}, "did you mean bold"),
        ("bold", {"noeds": 1}, "drafting.noeds=1.*drafting.nodes"),
        ("bold", {"nodes": "many"}, "drafting.nodes=many.*whole number"),
        ("bold", {"nodes": 99}, "drafting.nodes=99"),
    ],
)
def test_another_method_is_checked_as_if_it_had_been_composed(composed, name, values, said):
    with pytest.raises(UserError, match=said):
        composed().choose("drafting", name, values)


def test_a_value_that_must_be_given_is_asked_for():
    with pytest.raises(UserError, match=r"a value must be given \(node.name\); add node.name="):
        validated(WantsName, {}, "node")
    assert validated(WantsName, {"name": "???"}, "node").name == "???"


def test_a_key_leads_to_its_value(composed):
    made = composed("drafting=bold", "shape=org/x", "labels.a=b").composition
    keys = {
        "count": 1,
        "drafting": "bold",
        "drafting.nodes": 8,
        "shape": "org/x",
        "shape.sides": 3,
    }
    assert {key: made.value(key) for key in keys} == keys
    for key in ("fixed", "nothing", "drafting.nothing", "count.nothing"):
        with pytest.raises(LookupError):
            made.value(key)


def test_composing_leaves_hydra_as_it_was(composed):
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    before = sorted(ConfigStore.instance().repo)
    composed("drafting=bold")
    assert sorted(ConfigStore.instance().repo) == before
    assert not GlobalHydra.instance().is_initialized()


def test_composing_can_happen_within_a_run(toys, composed):
    from fivefold.composing import composing

    with composing(toys.task("toy"), toys) as composer:
        assert composed("count=3").config.count == 3
        assert composer.compose(["count=4"]).config.count == 4
