"""Third-party plugins, installed into folders of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fivefold import Run
from fivefold.cache import VARIABLE, cache_folder
from fivefold.description import load
from fivefold.discovery import load_plugins
from fivefold.plugins import Plugins
from fivefold.shim import read_command_line, split_task
from fivefold.testing import compose

HOUSE = Path(__file__).parents[2]
TEMPLATE = HOUSE / "plugins" / "template"


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A copy of the template, far from the checkout."""
    folder = tmp_path_factory.mktemp("anywhere") / "my-copy"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def with_template(template: Path, pip_install) -> dict[str, str]:
    """The environment in which the template's method is installed."""
    return pip_install(template)


@pytest.fixture
def used_cache(tmp_path: Path) -> dict[str, str]:
    """The environment of a cache of its own, in which plans were kept."""
    folder = tmp_path / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        kept = cache_folder() / "plans"
    kept.mkdir()
    (kept / "one.json").write_text("{}", "utf-8")
    return {VARIABLE: str(folder)}


@pytest.fixture(scope="session")
def plugins(with_template: dict[str, str]) -> Plugins:
    """What is installed here, and the template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(with_template["PYTHONPATH"])
        return load_plugins()


@pytest.fixture
def accept(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Run]:
    """Compose a command from the checkout as its run would, every check included.

    What a run would refuse is raised; what it would do is not begun.
    """
    monkeypatch.chdir(HOUSE)

    def check(words: list[str]) -> Run:
        line = read_command_line(words)
        name, rest = split_task(line.words, plugins.task_names())
        assert not rest, rest
        run = compose(name, line.overrides, plugins=plugins)
        if run.task.check:
            load(run.task.check)(run.config, run)
        return run

    return check


@pytest.fixture
def sit_exam() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a plugin's own tests in a process of their own."""

    def sit(tests: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        quiet = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *quiet, str(tests)],
            cwd=tests,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    return sit
