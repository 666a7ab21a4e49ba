"""A toy wheel, and the command line run on wheels that lie in a folder."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fivefold.discovery import load_plugins
from fivefold.plugins import Plugins

LIGHT = '''
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from fivefold import Group, Method, Task, UserError, hookimpl


class Mood(StrEnum):
    CALM = "calm"
    VERY_LOUD = "very-loud"


@dataclass
class LimitsConfig:
    memory: str = ""
    seconds: float = 0.0


@dataclass
class ToyConfig:
    """Say something."""

    text: str = "hello"
    """What to say, and
    how."""
    path: Path = Path("here")
    """Where."""
    count: int = 1
    """How often."""
    ratio: float | None = None
    mood: Mood = Mood.CALM
    """In which mood."""
    words: list[str] = field(default_factory=list)
    moods: list[Mood] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    maybe: str | None = None
    act: str = "say"
    tone: str = field(default="plain", metadata={"choices": ("plain", "soft", "sharp")})
    """How to say it."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError("too few", setting="count", remedy="give 0 or more")


@dataclass
class SteadyConfig:
    """Nothing to set."""


@dataclass
class BoldConfig:
    draft: str = "shipped"
    """Which draft."""
    nodes: int = 8
    """How many nodes."""

    def __post_init__(self) -> None:
        if self.nodes > 64:
            raise UserError("too many nodes", setting="nodes", remedy="give at most 64")


@dataclass
class ShapeConfig:
    name: str = "small"
    """Which shape."""
    sides: int = 3
    token: str = ""


SHAPE = Group(
    "shape",
    ShapeConfig,
    options={"small": {"name": "small", "sides": 4}, "wide": {"name": "wide", "sides": 6}},
    default="small",
    free="name",
)
FIXED = Group("fixed", SteadyConfig, options={"one": {}})


@hookimpl
def fivefold_drafting():
    return [
        Method("steady", SteadyConfig, "toy_run:build", "changes nothing", "a paper, section 1"),
        Method("bold", BoldConfig, "toy_run:build", "changes much", provides=frozenset({"law"})),
        Method("far", BoldConfig, "toy_run:build", "elsewhere", needs=frozenset({"task:far"})),
        Method("gone", BoldConfig, "toy_run_gone:build", "its code is missing"),
    ]


@hookimpl
def fivefold_tasks():
    toy = Task(
        "toy",
        ToyConfig,
        "toy_run:run",
        "say something",
        hooks={"drafting": "steady"},
        groups=(SHAPE, FIXED),
        provides=frozenset({"task:toy"}),
        check="toy_check:check",
    )
    plan = Task("toy plan", SteadyConfig, "toy_run:plan", "plan to say something")
    return [toy, plan]
'''

CHECK = """
from fivefold import UserError


def check(config, run):
    if run.method("drafting").name == "bold" and config.mood == "very-loud":
        raise UserError("bold is never loud", setting="mood", remedy="be calm")
"""

HEAVY = """
import os
import signal
import sys
import time

from fivefold import UserError


def build(settings, *args):
    return type(settings).__name__, args


def plan(config, run):
    run.print("planned")


def run(config, run):
    for number in range(config.count):
        run.row(number=number, text=config.text)
    run.figure("said", config.count)
    if config.act == "say":
        run.print(config.text)
    elif config.act == "note":
        run.note("noted")
    elif config.act == "refuse":
        raise UserError("refused", setting="drafting.draft", remedy="do not")
    elif config.act == "refuse-token":
        raise UserError("no entry", setting="shape.token", remedy="ask for one")
    elif config.act == "partly":
        run.fail(UserError("line 3 is broken", setting="text"))
        run.print("went on")
    elif config.act == "bug":
        raise ZeroDivisionError("a bug")
    elif config.act == "interrupt":
        raise KeyboardInterrupt
    elif config.act == "wait":
        run.print("waiting")
        time.sleep(60)
    elif config.act == "flood":
        while True:
            run.print("x" * 1000)
    elif config.act == "fail":
        return 1
    elif config.act == "warn":
        import logging
        logging.getLogger("toy").warning("mind this")
        logging.getLogger("toy").info("this is for the file")
    return None
"""


def write_wheel(
    folder: Path,
    name: str,
    modules: dict[str, str],
    *,
    entry: str = "",
    requires: tuple[str, ...] = ("fivefold",),
    version: str = "1.2",
) -> Path:
    """Write what pip would install of a wheel; the first module is its entry point."""
    for module, source in modules.items():
        path = folder / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {line}" for line in requires]
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    (info / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
    line = entry or f"{name} = {next(iter(modules)).replace('/', '.')}"
    (info / "entry_points.txt").write_text(f"[fivefold]\n{line}\n", encoding="utf-8")
    return folder


def write_toy(folder: Path) -> Path:
    modules = {"toy": LIGHT, "toy_run": HEAVY, "toy_check": CHECK}
    return write_wheel(folder, "fivefold-toy", modules, entry="toy = toy")


class Command:
    """`fivefold` in a process of its own, with the wheels of a folder installed."""

    def __init__(self, wheels: Path, cwd: Path) -> None:
        self.wheels = wheels
        self.cwd = cwd
        self.env = {
            **os.environ,
            "PYTHONPATH": str(wheels),
            "FIVEFOLD_CACHE": str(cwd / "cache"),
            "COLUMNS": "100",
        }

    def start(self, *words: str | bytes, **popen) -> subprocess.Popen:
        line = [sys.executable, "-m", "fivefold", *words]
        return subprocess.Popen(line, cwd=self.cwd, env=self.env, **popen)

    def __call__(self, *words: str | bytes, **env: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "fivefold", *words]
        return subprocess.run(
            line,
            cwd=self.cwd,
            env={**self.env, **env},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    def result(self, folder: str) -> dict:
        return json.loads((self.cwd / folder / "result.json").read_text(encoding="utf-8"))


AWKWARD = [
    "a,b",
    "",
    " ",
    "trailing  ",
    " leading",
    "12",
    "1e3",
    "null",
    "true",
    "???",
    "\ufdd0",
    "\ufdd0???",
    "~",
    "Ü",
    "a=b=c",
    "[1, 2",
    "{a: b}",
    "it's",
    '"quoted"',
    "'",
    '"',
    "\\",
    "\\'",
    "\\\\'",
    "ends with \\",
    "line\nbreak",
    "\\\n",
    "tab\there",
    "${x}",
    "${x",
    "\\${x}",
    "\\\\${oc.env:HOME}",
    "choice(a,b)",
    "#comment",
    "\u2028\x85\x1b",
    "🙂",
]


@pytest.fixture(params=AWKWARD)
def awkward(request) -> str:
    """Text that a shell, a grammar or a file may read something else from."""
    return request.param


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def toys(toy_folder) -> Plugins:
    """The toy wheel, loaded in this process."""
    sys.path.insert(0, str(toy_folder))
    return load_plugins([str(toy_folder)])


@pytest.fixture
def command(toy_folder, tmp_path) -> Command:
    return Command(toy_folder, tmp_path)


@pytest.fixture
def wheel(tmp_path):
    """Write wheels into a folder of this test's own; returns the writer."""
    folder = tmp_path / "wheels"
    folder.mkdir()

    def write(name: str, modules: dict[str, str], **options) -> Path:
        return write_wheel(folder, name, modules, **options)

    write.folder = folder
    return write


@pytest.fixture
def command_on(tmp_path):
    """Return a command on the wheels of a folder."""
    return lambda wheels: Command(wheels, tmp_path)


@pytest.fixture
def here(toys, tmp_path, monkeypatch, capsys):
    """Run the command line in this process, in a folder of its own: (status, stdout, stderr)."""
    from fivefold import cli, completion

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "installed", lambda: toys)
    monkeypatch.setattr(completion, "installed", lambda: toys)
    monkeypatch.setattr("fivefold.job.installed", lambda: toys)

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(words)
        return status, *capsys.readouterr()

    return run
