"""What a user may get wrong is one line on stderr and exit status 2, never a traceback."""

import shlex

import pytest

WRONG = {
    "unknown task": (["tyo"], ["no task 'tyo'", "toy"]),
    "no task": (["text=x"], ["no task is named", "toy"]),
    "word after the task": (["toy", "hello"], ["'hello'", "key=value", "toy --help"]),
    "second word of a task": (["toy", "plam"], ["'plam'"]),
    "unknown flag": (["toy", "--multrun"], ["'--multrun'", "did you mean --multirun"]),
    "flag without its value": (["toy", "--cfg"], ["--cfg needs a value"]),
    "wrong value of a flag": (["toy", "--cfg", "jbo"], ["--cfg", "job"]),
    "flag of Hydra without a use": (["toy", "-cn", "other"], ["-cn"]),
    "unknown key": (["toy", "txet=x"], ["(txet=x)", "did you mean text?"]),
    "no key": (["toy", "=x"], ["no such setting"]),
    "half a key": (["toy", "shape.=x"], ["(shape.=x)"]),
    "unknown key of a node": (["toy", "shape.side=1"], ["shape.side", "shape.sides"]),
    "unknown key of a method": (
        ["toy", "drafting=bold", "drafting.noeds=1"],
        ["drafting.noeds", "drafting.nodes"],
    ),
    "key of a method not chosen": (
        ["toy", "drafting.nodes=1"],
        ["drafting.nodes=1", "a setting of drafting=bold"],
    ),
    "key of some methods of a sweep": (
        ["-m", "toy", "drafting=steady,bold", "drafting.nodes=1"],
        ["drafting=steady has no such setting (drafting.nodes=1)"],
    ),
    "sweep over a listing": (["-m", "cache", "action=list,size"], ["cannot be swept over"]),
    "a file of configuration without its plus": (
        ["toy", "hydra/output=default", "shape=small", "~debug"],
        ["debug"],
    ),
    "unknown key added": (["toy", "++txet=x"], ["txet=x", "text"]),
    "unknown group": (["toy", "+expermint=x"], ["expermint=x"]),
    "unknown method": (["toy", "drafting=blod"], ["(drafting=blod)", "did you mean bold?"]),
    "empty method": (["toy", "drafting="], ["drafting="]),
    "method taken away": (["toy", "~drafting"], ["always has a method"]),
    "unknown option": (["toy", "fixed=two"], ["(fixed=two)", "one"]),
    "no folder of experiments": (
        ["toy", "+experiment=x"],
        [
            "no folder conf/experiment here (experiment=x)",
            "in the root folder of a checkout, or where conf/experiment/NAME.yaml is",
        ],
    ),
    "unknown key added, much like another": (
        ["toy", "+shap=x"],
        ["no such setting (shap=x); did you mean shape?"],
    ),
    "unknown enum value": (["toy", "mood=clam"], ["(mood=clam)", "did you mean calm?"]),
    "unknown value in a list": (["toy", "moods=[calm,lod]"], ["moods=lod", "calm"]),
    "not a number": (["toy", "count=x"], ["(count=x)", "whole number"]),
    "empty number": (["toy", "count="], ["(count=)", "whole number"]),
    "number with a fraction": (["toy", "count=1.5"], ["(count=1.5)", "whole number"]),
    "a value for settings": (
        ["toy", "limits=1KiB"],
        ["(limits=1KiB)", "set what is below it: limits.memory, limits.seconds"],
    ),
    "not a truth value": (["toy", "debug=perhaps"], ["(debug=perhaps)", "true|false"]),
    "unparsable": (["toy", "count=[1"], ["(count=[1)"]),
    "unparsable list": (["toy", 'words=[a b"]'], ['words=[a b"]', """'words=["a b"]'"""]),
    "a mark in a list": (["toy", "words=[!]"], ["""(words=[!]); quote its items: 'words=["!"]'"""]),
    "an open list": (["toy", "words=["], ["""(words=[); quote its items: 'words=["a b"]'"""]),
    "not a list": (["toy", "words=a"], ["words=[a]"]),
    "several numbers": (["toy", "count=1,2"], ["(count=1,2)", "-m"]),
    "several methods": (["toy", "drafting=bold,steady"], ["drafting=bold,steady", "-m"]),
    "refused by the task's own check": (["toy", "count=-1"], ["too few (count=-1); give 0"]),
    "refused by the method's own check": (
        ["toy", "drafting=bold", "drafting.nodes=99"],
        ["too many nodes (drafting.nodes=99); give at most 64"],
    ),
    "refused together": (
        ["toy", "drafting=bold", "mood=very-loud"],
        ["bold is never loud (mood=very-loud); be calm"],
    ),
    "refused in the task": (
        ["toy", "drafting=bold", "act=refuse"],
        ["refused (drafting.draft=shipped); do not"],
    ),
    "unknown key of Hydra": (["toy", "hydra.run.dri=x"], ["hydra.run.dri"]),
    "unknown group of Hydra": (["toy", "hydra/launcher=x"], ["hydra/launcher=x", "basic"]),
    "a folder of configuration that is none": (["toy", "-cd", "nowhere"], ["nowhere"]),
    "wrong action of the cache": (["cache", "clera"], ["did you mean clear?"]),
    "wrong completion": (["-sc", "instal=bash"], ["-sc install=bash"]),
    "unknown shell": (["-sc", "install=bsh"], ["bsh", "bash"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_it_is_one_line_with_the_nearest_valid_names(here, kind):
    words, said = WRONG[kind]
    status, out, err = here(*words)
    assert (status, out) == (2, "")
    assert err.startswith("fivefold: ")
    assert err.count("\n") == 1, err
    assert len(err) < 500
    for part in said:
        assert part in err


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("coun", "did you mean count?"),
        ("side", "did you mean shape.sides?"),  # in another node, and really close
        ("sid", "see `fivefold toy --help`"),
        ("shape.coun", "did you mean count?"),
        ("shape.sids", "did you mean shape.sides?"),
        ("shape.xyz", "see `fivefold toy --help`"),
        ("nothing_like_it", "see `fivefold toy --help`"),
    ],
)
def test_only_a_setting_that_is_close_is_suggested(here, key, remedy):
    assert here("toy", f"{key}=1")[2] == f"fivefold: no such setting ({key}=1); {remedy}\n"


def test_an_experiment_that_is_not_there_is_met_with_the_nearest(here, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "loud.yaml").write_text("")
    err = here("toy", "+experiment=laud")[2]
    assert err.startswith("fivefold: no such experiment (experiment=laud); did you mean loud?")


def test_what_is_suggested_for_a_list_can_be_typed(here):
    err = here("toy", 'words=[it\'s "so", !]')[2]
    (typed,) = shlex.split(err.rpartition("items:")[2])
    assert here("toy", typed, "hydra.run.dir=out")[0] == 0


@pytest.mark.parametrize("words", [["toy", "count=x"], ["toy", "act=refuse"], ["toy", "count=-1"]])
def test_debug_shows_where_it_came_from(here, words):
    status, _, err = here(*words, "debug=true")
    assert status == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("fivefold: ")


def test_a_value_of_many_lines_is_shown_on_one(here):
    status, _, err = here("toy", "drafting=a\nb" + "c" * 500)
    assert (status, err.count("\n")) == (2, 1)
    assert "a\\nb" in err
    assert len(err) < 500


def test_a_run_folder_that_cannot_be_made_is_named(here, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = here("toy", "hydra.run.dir=file/run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "hydra.run.dir" in err
    assert "file/run" in err


def test_a_run_folder_whose_log_cannot_be_written_is_named(here, tmp_path):
    (tmp_path / "run" / "toy.log").mkdir(parents=True)
    status, out, err = here("toy", "hydra.run.dir=run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "hydra.run.dir" in err
    assert "toy.log" in err


def test_a_sweep_folder_whose_log_cannot_be_written_is_named(here, tmp_path):
    (tmp_path / "all" / "0" / "toy.log").mkdir(parents=True)
    status, _, err = here("-m", "toy", "count=1,2", "hydra.sweep.dir=all")
    assert status == 2
    assert "Traceback" not in err
    assert "hydra.sweep.dir" in err.splitlines()[-1]


def test_a_builder_whose_module_is_missing_is_the_users_to_install(toys):
    from fivefold import UserError
    from fivefold.testing import compose

    run = compose("toy", ["drafting=gone"], plugins=toys)
    with pytest.raises(UserError, match=r"toy_run_gone cannot be imported.*drafting=gone"):
        run.build("drafting")


def test_a_bug_is_a_traceback_and_status_1(here):
    status, _, err = here("toy", "act=bug", "hydra.run.dir=out")
    assert status == 1
    assert "ZeroDivisionError: a bug" in err
    assert "Traceback" in err
