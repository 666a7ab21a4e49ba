"""One broken plugin never takes another down, and each says what is wrong with it."""

import json
import typing
from dataclasses import make_dataclass
from enum import Enum
from pathlib import Path

import pytest
from fivefold import UserError, __version__
from fivefold.discovery import load_plugins
from fivefold.schema import problem_of_config
from omegaconf import OmegaConf

ONE = """
from dataclasses import dataclass
from fivefold import Method, Task, hookimpl

@dataclass
class Config:
    depth: int = 2

@hookimpl
def fivefold_drafting():
    return [Method({name!r}, Config, "somewhere:build", "from {name}")]
"""

TASK = """
from dataclasses import dataclass
from fivefold import Task, hookimpl

@dataclass
class Config:
    depth: int = 2

@hookimpl
def fivefold_tasks():
    return [Task("draw", Config, "draw_run:run", "draw", hooks={"drafting": "pencil"})]
"""

RUN = "def run(config, run):\n    run.print(run.method('drafting').name)\n"

GOOD = "'odd', Config, 'somewhere:build', 'one line'"


def method(words: str) -> str:
    """Return the source of a plugin that describes one method in these words."""
    return ONE.replace('{name!r}, Config, "somewhere:build", "from {name}"', words)


def task(words: str) -> str:
    """Return the source of a plugin that describes one task, its last words these."""
    return TASK.replace("'draw'", "'odd'").replace('hooks={"drafting": "pencil"}', words)


def field(annotation: str) -> str:
    """Return the source of a plugin whose method has a setting of this type."""
    head = (
        "from __future__ import annotations\nfrom collections.abc import *\nfrom typing import *\n"
    )
    return head + method(GOOD).replace("depth: int = 2", f"depth: {annotation} = None")


BROKEN = {
    "import": ("import nothing_of_this_name\n", "nothing_of_this_name"),
    "exit": ("raise SystemExit('no')\n", "SystemExit"),
    "syntax": ("def (:\n", "SyntaxError"),
    "misspelt": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_draftin():\n    return []\n",
        "did you mean fivefold_drafting?",
    ),
    "signature": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_drafting(extra):\n    return []\n",
        "extra",
    ),
    "raising": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_drafting():\n    1 / 0\n",
        "fivefold_drafting failed: ZeroDivisionError",
    ),
    "wrong": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_drafting():\n    return ['x']\n",
        "a hook returned a str, not a Method",
    ),
    "none": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_drafting():\n    return 3\n",
        "fivefold_drafting failed: TypeError",
    ),
    "unmarked": ("def fivefold_drafting():\n    return []\n", "not marked with @hookimpl"),
    "frozen": (
        ONE.format(name="ice").replace("@dataclass", "@dataclass(frozen=True)"),
        "Config is frozen",
    ),
    "literal": (
        ONE.format(name="lit")
        .replace("depth: int = 2", "depth: 'Literal[2]' = 2")
        .replace("from fivefold", "from typing import Literal\nfrom fivefold"),
        "Literal is not supported",
    ),
    "badname": (ONE.format(name="Not A Name"), "a name is lower case letters"),
    "no_name": (method("None, Config, 'somewhere:build', ''"), "name must be text, not None"),
    "builder": (method("'odd', Config, print, 'one line'"), "build must be text"),
    "no_config": (method("'odd', None, 'somewhere:build', ''"), "config None is not a dataclass"),
    "no_summary": (method("'odd', Config, 'somewhere:build', None"), "summary must be text"),
    "needs_nothing": (method(f"{GOOD}, needs=None"), "needs must be a set of words"),
    "needs_a_word": (method(f"{GOOD}, needs='task:x'"), "not 'task:x'"),
    "needs_numbers": (method(f"{GOOD}, needs={{3}}"), "needs must be a set of words"),
    "provides_nothing": (method(f"{GOOD}, provides=None"), "provides must be a set of words"),
    "no_groups": (task("groups=None"), "groups must be a tuple of Group"),
    "odd_groups": (task("groups=('model',)"), "groups must be a tuple of Group"),
    "odd_node": (task("groups=(__import__('fivefold').Group(None, Config),)"), "node must be text"),
    "no_options": (
        task("groups=(__import__('fivefold').Group('model', Config, options={'a': 3}),)"),
        "options must be a dictionary",
    ),
    "no_hooks": (task("hooks=None"), "hooks must be a dictionary"),
    "odd_default": (task("hooks={'drafting': None}"), "hooks must be a dictionary"),
    "odd_hook": (task("hooks={'drawing': 'pencil'}"), "no such hook 'drawing'"),
    "odd_check": (task("check=print"), "check must be text"),
    "task_provides": (task("provides='task:x'"), "provides must be a set of words"),
    "complex": (field("complex"), "Config.depth: complex is not supported"),
    "in_a_list": (field("list[Callable]"), "Config.depth: Callable is not supported"),
    "in_a_dictionary": (field("dict[tuple, int]"), "a dictionary's key cannot be"),
    "alternatives": (field("int | list[int]"), "only numbers, text and Enums can be alternatives"),
    "choices": (
        "from dataclasses import field\n"
        + method(GOOD).replace("int = 2", "str = field(default='', metadata={'choices': 3})"),
        "Config.depth: choices must be a list of text, not 3",
    ),
    "endless": (field("Config | None"), "Config holds itself"),
    "unreadable": (
        "class Proxy:\n    __class__ = property(lambda self: 1 / 0)\nproxy = Proxy()\n",
        "its description cannot be read: ZeroDivisionError",
    ),
    "hook_exits": (
        "from fivefold import hookimpl\n@hookimpl\ndef fivefold_drafting():\n    exit('no')\n",
        "fivefold_drafting failed: SystemExit",
    ),
}


@pytest.fixture
def sound(wheel):
    """A task and the one method that it needs."""
    wheel("draw", {"draw": TASK, "draw_run": RUN})
    wheel("pencil", {"pencil_method": ONE.format(name="pencil")})
    return wheel


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_reported_and_the_others_work(sound, monkeypatch, kind):
    source, reason = BROKEN[kind]
    sound(f"bad-{kind}", {f"bad_{kind}": source})
    monkeypatch.syspath_prepend(str(sound.folder))
    plugins = load_plugins([str(sound.folder)])
    status = {s.name: s for s in plugins.statuses}
    assert reason in status[f"bad-{kind}"].error
    assert "\n" not in status[f"bad-{kind}"].error
    assert {status["draw"].state, status["pencil"].state} == {"ok"}
    assert plugins.method(plugins.task("draw"), "drafting", "pencil").summary == "from pencil"


def test_every_broken_plugin_at_once_leaves_the_command_line_working(sound, command_on):
    for kind, (source, _) in BROKEN.items():
        sound(f"bad-{kind}", {f"bad_{kind}": source})
    command = command_on(sound.folder)
    done = command("draw", "hydra.run.dir=out")
    assert (done.returncode, done.stdout) == (0, "pencil\n"), done.stderr
    listed = command("plugins")
    assert listed.returncode == 0
    assert "Traceback" not in listed.stdout + listed.stderr
    assert all(f"bad-{kind}" in listed.stdout for kind in BROKEN)


def test_what_is_sound_in_a_partly_broken_plugin_stays(wheel, monkeypatch):
    source = ONE.format(name="half") + "\n@hookimpl\ndef fivefold_attention():\n    1 / 0\n"
    wheel("half", {"half_method": source})
    monkeypatch.syspath_prepend(str(wheel.folder))
    status = load_plugins([str(wheel.folder)]).statuses[-1]
    assert (status.state, [m.name for _, m in status.methods]) == ("partly", ["half"])


@pytest.mark.parametrize(
    ("requirement", "is_met"),
    [
        ("fivefold", True),
        (f"fivefold~={__version__}", True),
        ("fivefold>=7", False),
        (f"fivefold<{__version__}", False),
        ("Fivefold[all]>=7", False),
        ("fivefold>=7; extra == 'later'", True),
        ("fivefold-lm>=7", True),
        ("fivefold is good", False),
    ],
)
def test_the_requirement_on_the_host_is_the_wheels_own(wheel, monkeypatch, requirement, is_met):
    wheel("picky", {"picky_method": ONE.format(name="picky")}, requires=(requirement,))
    monkeypatch.syspath_prepend(str(wheel.folder))
    status = load_plugins([str(wheel.folder)]).statuses[-1]
    assert (status.error == "") is is_met, status.error
    if not is_met:
        assert status.methods == []
        assert "requires" in status.error or "cannot be read" in status.error


def test_choosing_a_method_of_a_broken_plugin_names_the_wheel_and_the_reason(sound, command_on):
    sound("fivefold-chalk", {"chalk": "import dust_of_chalk\n"}, entry="chalk = chalk")
    done = command_on(sound.folder)("draw", "drafting=chalk")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "fivefold-chalk 1.2" in done.stderr
    assert "dust_of_chalk" in done.stderr


def test_choosing_a_method_whose_settings_cannot_be_composed_says_why(sound, command_on):
    odd = ONE.format(name="odd").replace("depth: int = 2", "depth: int = 'not a number'")
    sound("odd", {"odd_method": odd})
    command = command_on(sound.folder)
    assert command("draw", "hydra.run.dir=out").stdout == "pencil\n"
    done = command("draw", "drafting=odd")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "odd 1.2" in done.stderr


TYPES = (
    "int", "complex", "object", "Any", "Path", "bytes", "list", "dict", "tuple", "list[int]",
    "tuple[int, ...]", "Sequence[int]", "Mapping[str, int]", "dict[str, list[int]]",
    "dict[complex, int]", "int | str", "int | str | None", "int | list[int]", "list[int] | None",
    "Literal[1]", "set[int]", "frozenset", "Callable[[int], int]", "type", "list[complex]",
    "list[int | None]", "range", "dict[tuple[int], int]", "Hashable", "Any | int", "Mood | int",
)  # fmt: skip


@pytest.mark.parametrize("annotation", TYPES)
def test_a_type_is_refused_exactly_if_it_could_not_be_composed(annotation):
    names = {**vars(typing), "Path": Path, "Mood": Enum("Mood", "CALM LOUD")}
    config = make_dataclass("Config", [("field", eval(annotation, names))])
    try:
        OmegaConf.structured(config)
    except Exception:  # whatever OmegaConf raises, the message is not ours
        assert problem_of_config(config)
    else:
        assert problem_of_config(config) == ""


def test_two_methods_of_one_name_are_an_error_only_when_chosen(sound, command_on):
    sound("ink-a", {"ink_a": ONE.format(name="ink")})
    sound("ink-b", {"ink_b": ONE.format(name="ink")})
    command = command_on(sound.folder)
    assert command("draw", "hydra.run.dir=out").stdout == "pencil\n"
    done = command("draw", "drafting=ink")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for word in ("ink-a 1.2", "ink-b 1.2", "FIVEFOLD_BLOCK=ink-"):
        assert word in done.stderr
    assert "drafting=ink: " in command("plugins").stdout


@pytest.mark.parametrize("blocked", ["ink-b", "other, ink_b", "Ink.B"])
def test_blocking_one_of_two_wheels_lets_the_other_be_chosen(sound, command_on, blocked):
    sound("ink-a", {"ink_a": ONE.format(name="ink")})
    sound("ink-b", {"ink_b": ONE.format(name="ink")})
    command = command_on(sound.folder)
    done = command("draw", "drafting=ink", "hydra.run.dir=out", FIVEFOLD_BLOCK=blocked)
    assert (done.returncode, done.stdout) == (0, "ink\n")
    assert "blocked" in command("plugins", FIVEFOLD_BLOCK=blocked).stdout
    assert "cannot be used" in command().stdout
    assert "cannot be used" not in command(FIVEFOLD_BLOCK=blocked).stdout  # it was asked for


def test_what_a_blocked_wheel_would_bring_is_said_to_be_blocked(sound, command_on):
    command = command_on(sound.folder)
    for words in (["draw"], ["dram", "x=1"]):
        done = command(*words, FIVEFOLD_BLOCK="draw")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "blocked by FIVEFOLD_BLOCK: draw 1.2 (see `fivefold plugins`)" in done.stderr
    done = command("draw", FIVEFOLD_BLOCK="pencil")
    assert "(drafting=pencil); take it out of FIVEFOLD_BLOCK" in done.stderr
    assert "FIVEFOLD_BLOCK" not in command("draw", "drafting=pen").stderr


def test_wheels_that_did_not_load_and_blocked_ones_are_told_apart(sound, command_on):
    sound("fivefold-chalk", {"chalk": "import dust_of_chalk\n"}, entry="chalk = chalk")
    done = command_on(sound.folder)("draw", "drafting=pen", FIVEFOLD_BLOCK="pencil")
    assert "did not load: fivefold-chalk 1.2, blocked by FIVEFOLD_BLOCK: pencil 1.2" in done.stderr


def test_two_tasks_of_one_name_are_an_error_only_when_run(sound, command_on):
    sound("draw-too", {"draw_too": TASK})
    command = command_on(sound.folder)
    done = command("draw")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "draw-too 1.2" in done.stderr
    assert command("plugins").returncode == 0


def test_a_method_for_another_task_is_not_offered(toys):
    assert "far" not in toys.methods(toys.task("toy"), "drafting")
    with pytest.raises(UserError, match="is for task:far, not for `fivefold toy`"):
        toys.method(toys.task("toy"), "drafting", "far")


def test_the_json_listing_holds_every_plugin_with_its_state(sound, command_on):
    sound("fivefold-chalk", {"chalk": "import dust_of_chalk\n"}, entry="chalk = chalk")
    command = command_on(sound.folder)
    for words in (["plugins", "--json"], ["plugins", "json=true"], ["--json", "plugins"]):
        listed = json.loads(command(*words).stdout)
        states = {plugin["name"]: plugin["state"] for plugin in listed["plugins"]}
        assert states["pencil"] == "ok"
        assert states["chalk"] == "broken"
    pencil = next(p for p in listed["plugins"] if p["name"] == "pencil")
    assert (pencil["distribution"], pencil["version"]) == ("pencil", "1.2")
    assert pencil["methods"][0]["name"] == "pencil"


def test_wheels_with_unreadable_metadata_are_reported(wheel, monkeypatch):
    wheel("vague", {"vague_method": ONE.format(name="vague")}, entry="this is no entry point")
    info = wheel("shy", {"shy_method": ONE.format(name="shy")})
    (info / "shy-1.2.dist-info" / "METADATA").unlink()
    monkeypatch.syspath_prepend(str(wheel.folder))
    statuses = load_plugins([str(wheel.folder)]).statuses
    assert len(statuses) >= 2


def test_what_a_module_exports_lazily_is_not_loaded(wheel, monkeypatch):
    source = ONE.format(name="lazy") + (
        "\n__all__ = ['Heavy']\n"
        "def __getattr__(name):\n    raise AssertionError(name)\n"
        "def __dir__():\n    return [*globals(), 'Heavy']\n"
    )
    wheel("lazy", {"lazy_method": source})
    monkeypatch.syspath_prepend(str(wheel.folder))
    assert load_plugins([str(wheel.folder)]).statuses[-1].state == "ok"
