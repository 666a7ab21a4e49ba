"""Help says every setting, from the docstrings, without loading what is heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fivefold import __version__, shim
from fivefold.schema import field_docs, settings_of


def test_the_command_alone_lists_tasks_and_how_to_go_on(here):
    for words in ([], ["--help"], ["-h"]):
        status, out, err = here(*words)
        assert (status, err) == (0, "")
        assert "  toy       say something\n" in out
        assert "  toy plan  plan to say something\n" in out
        assert "  cache     " in out
        assert "TASK --help" in out


def test_the_help_of_a_task_has_every_setting_with_default_type_and_doc(here):
    status, out, err = here("toy", "--help")
    assert (status, err) == (0, "")
    assert "Say something." in out
    assert "  text=hello  <text>\n      What to say, and how.\n" in out
    assert "  path=here  <path>\n      Where.\n" in out
    assert "  count=1  <whole number>\n" in out
    assert "  ratio=null  <number>\n" in out
    assert "  mood=calm  <calm|very-loud>\n" in out
    assert "  words=[]  <[text,…]>\n" in out
    assert "  tone=plain  <plain|soft|sharp>\n      How to say it.\n" in out
    assert "shape=small|wide|NAME (default small):" in out
    assert "  shape.sides=4  <whole number>" in out
    assert "  debug=false" in out


def test_the_help_of_a_task_names_the_methods_it_is_offered(here):
    out = here("toy", "--help")[1]
    assert "drafting=METHOD (default steady):" in out
    assert "  bold    changes much\n" in out
    assert "elsewhere" not in out
    assert "drafting.nodes" not in out


def test_a_chosen_method_shows_its_settings(here):
    out = here("--help", "drafting=bold", "toy")[1]
    assert " Settings of bold:\n" in out
    assert "  drafting.nodes=8  <whole number>\n      How many nodes.\n" in out


def test_the_help_for_a_method_that_does_not_exist_names_the_nearest(here):
    status, out, err = here("toy", "drafting=blod", "--help")
    assert (status, out) == (2, "")
    assert "did you mean bold?" in err


def test_versions_and_hydras_flags(here):
    assert here("--version")[1] == f"fivefold {__version__}\n"
    assert "--multirun, -m" in here("--hydra-help")[1]


def test_every_flag_of_hydra_is_known():
    from hydra._internal.utils import get_args_parser

    for action in get_args_parser()._actions:
        for flag in action.option_strings:
            known = shim._INFO + shim._PLAIN + shim._VALUED + shim._REFUSED + shim._OWN
            assert flag in known + shim._HYDRA_HELP
            takes_value = action.nargs != 0 and flag not in shim._INFO
            assert takes_value is (flag in shim._VALUED + shim._REFUSED)


def test_docstrings_of_base_classes_are_read_too(toys):
    config = toys.task("toy").config
    inherited = type("Inherited", (config,), {})
    assert field_docs(inherited)["text"] == "What to say, and how."
    assert [s.key for s in settings_of(config)][:2] == ["text", "path"]


def test_the_example_of_the_readme_runs(wheel, command_on):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    entry = re.search(r"```toml\n\[.*?\]\n(.*?)\n```", readme, re.DOTALL)[1].replace('"', "")
    wheel("my-plugin", {"my_plugin": source}, entry=entry)
    done = command_on(wheel.folder)("hello", "name=you, and you", "hydra.run.dir=out")
    assert (done.returncode, done.stdout) == (0, "hello you, and you\n"), done.stderr


HEAVY = ("torch", "numpy", "transformers")


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--help"], ("hydra", "omegaconf", "rich")),
        (["--version"], ("hydra", "omegaconf", "rich")),
        (["plugins"], ("hydra", "omegaconf")),
        (["plugins", "--json"], ("hydra", "omegaconf", "rich")),
        (["cache"], ("hydra", "omegaconf", "rich")),
        (["toy", "--help"], ("omegaconf", "rich")),
        (["toy", "--cfg", "job"], ()),
        (["toy"], ()),
    ],
)
def test_nothing_heavy_is_imported(command, words, unwanted):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fivefold", *words],
        env=command.env,
        cwd=command.cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fivefold.cli" in imported
    assert imported & {*HEAVY, *unwanted} == set()
