"""What the tests of the whole house share: the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """A finished command."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """What the run left in `result.json`."""
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text("utf-8"))
        return found

    @property
    def refusal(self) -> str:
        """The one line of a user error; fails when there is more or less."""
        lines = [line for line in self.err.splitlines() if line.startswith("fivefold: ")]
        assert self.status == 2, self.err
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.out + self.err
        return lines[0]


Fivefold = Callable[..., Ended]


@pytest.fixture(scope="session")
def spare_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds nothing of the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_of_the_tests(
    request: pytest.FixtureRequest, spare_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep tests, and every command they run, off the user's cache.

    Only those marked `model` use it: the real model is fetched and converted into it once.
    """
    if not request.node.get_closest_marker("model"):
        monkeypatch.setenv("FIVEFOLD_CACHE", str(spare_cache))


@pytest.fixture
def fivefold(tmp_path: Path) -> Fivefold:
    """Run `fivefold` in a folder of its own and return how it ended."""

    def run(
        *words: str,
        stdin: str | bytes = b"",
        env: dict[str, str] | None = None,
        cwd: Path = tmp_path,
    ) -> Ended:
        folder = tmp_path / "run"
        lists_only = {"--help", "--version", "--cfg", "plugins", "-m"} & set(words)
        given_one = any(word.startswith("hydra.run.dir=") for word in words)
        where = [] if lists_only or given_one else [f"hydra.run.dir={folder}"]
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        done = subprocess.run(
            [sys.executable, "-m", "fivefold", *words, *where],
            input=given,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=300,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        return Ended(done.returncode, out, err, folder)

    return run


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run a program in a fresh interpreter and return what it printed; it must succeed."""

    def run(program: str, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def pip_install(tmp_path_factory) -> Callable[[Path], dict[str, str]]:
    """Install a folder alone, and return the environment in which it is found."""

    def install(source: Path) -> dict[str, str]:
        target = tmp_path_factory.mktemp("site")
        alone = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
        pip = [sys.executable, "-m", "pip", "install", *alone]
        subprocess.run([*pip, str(source)], check=True, capture_output=True)
        return {"PYTHONPATH": str(target)}

    return install


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Keep the tests that load the real model in one process."""
    for item in items:
        if item.get_closest_marker("model"):
            item.add_marker(pytest.mark.xdist_group("model"))
