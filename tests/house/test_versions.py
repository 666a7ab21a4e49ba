"""One version number for all wheels, siblings and changelog."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
FOLDERS = ("packages/*", "plugins/*", "kernels")
FILES = sorted(file for folder in FOLDERS for file in HOUSE.glob(f"{folder}/pyproject.toml"))
PROJECTS = [tomllib.loads(file.read_text("utf-8"))["project"] for file in FILES]
NAMES = [project["name"] for project in PROJECTS]
PROVIDERS = packages_distributions()
NUMBER = next(project["version"] for project in PROJECTS if project["name"] == "fivefold")


def normal(requirement: str) -> str:
    """Return the name of a requirement as pip compares it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_version_is_that_of_the_host(project):
    assert project["version"] == NUMBER


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_siblings_are_required_at_this_version(project):
    siblings = [line for line in project["dependencies"] if line.startswith("fivefold")]
    assert all(line.endswith(f"~={NUMBER}") for line in siblings), siblings
    assert siblings or project["name"] in ("fivefold", "fivefold-kernels")  # the lowest floor


def test_plugin_of_the_tutorial_requires_this_version():
    text = (HOUSE / "docs" / "tutorials" / "write-a-plugin.md").read_text("utf-8")
    assert set(re.findall(r'"fivefold[a-z-]*~=([^"]+)"', text)) == {NUMBER}


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_python_and_licence_are_the_same_everywhere(project):
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_wheel_carries_the_text_of_the_licence(file):
    project = tomllib.loads(file.read_text("utf-8"))["project"]
    assert project["license-files"] == ["LICENSE"]
    assert (file.parent / "LICENSE").read_text("utf-8") == (HOUSE / "LICENSE").read_text("utf-8")


def test_a_built_wheel_holds_the_licence_and_says_so(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*build, "--wheel-dir", str(tmp_path), str(HOUSE / "packages" / "fivefold")]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        (place,) = [name for name in held.namelist() if name.endswith("/licenses/LICENSE")]
        assert held.read(place) == (HOUSE / "LICENSE").read_bytes()


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_every_requirement_has_a_lowest_version(project):
    """`nox -s lowest` installs exactly these."""
    bare = [line for line in project["dependencies"] if not re.search(r"[~>=]=", line)]
    assert not bare


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("fivefold")])
def test_what_a_package_imports_it_declares(name):
    """What comes with something else today may not come with it tomorrow."""
    project, file = next(
        pair for pair in zip(PROJECTS, FILES, strict=True) if name == pair[0]["name"]
    )
    extras = project.get("optional-dependencies", {}).values()
    declared = {normal(line) for line in chain(project["dependencies"], *extras)} | {name}
    imported = {top for source in file.parent.glob("src/**/*.py") for top in imported_by(source)}
    others = imported - set(sys.stdlib_module_names)
    wheels = {top: {normal(wheel) for wheel in PROVIDERS.get(top, [top])} for top in others}
    assert not [top for top in others if not wheels[top] & declared]


def imported_by(file: Path) -> set[str]:
    """Return the top-level names of everything that a file imports from elsewhere."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    return {name.partition(".")[0] for name in [*plain, *froms]}


def test_installed_host_is_this_version():
    assert version("fivefold") == NUMBER


def test_sessions_know_every_project():
    """They are built, and each tested alone, from this list."""
    noxfile = (HOUSE / "noxfile.py").read_text("utf-8")
    folders = {file.parent.relative_to(HOUSE).as_posix() for file in FILES}
    assert {path for path in folders if f'"{path}"' not in noxfile} == set()


def test_changelog_knows_the_version_or_has_fragments_for_it():
    text = (HOUSE / "CHANGELOG.md").read_text("utf-8")
    fragments = [*HOUSE.glob("changelog/*.*.md")]
    assert f"## [{NUMBER}]" in text or fragments


def test_changelog_fragments_have_a_known_kind():
    kinds = {file.name.split(".")[-2] for file in HOUSE.glob("changelog/*.*.md")}
    assert kinds <= {"added", "changed", "fixed", "removed"}


def test_constraints_name_one_version_each():
    lines = (HOUSE / "constraints.txt").read_text("utf-8").split()
    names = [re.fullmatch(r"([\w.-]+)==[\w.]+", line)[1].lower() for line in lines]
    assert len(set(names)) == len(names)
    assert "torch==2.13.0" in lines
