"""One version number for all wheels, siblings and changelog."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
FILES = sorted([*HOUSE.glob("packages/*/pyproject.toml"), *HOUSE.glob("plugins/*/pyproject.toml")])
PROJECTS = [tomllib.loads(file.read_text("utf-8"))["project"] for file in FILES]
NAMES = [project["name"] for project in PROJECTS]
NUMBER = next(project["version"] for project in PROJECTS if project["name"] == "fivefold")


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_version_is_that_of_the_host(project):
    assert project["version"] == NUMBER


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_siblings_are_required_at_this_version(project):
    siblings = [line for line in project["dependencies"] if line.startswith("fivefold")]
    assert all(line.endswith(f"~={NUMBER}") for line in siblings), siblings
    assert siblings or project["name"] == "fivefold"


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_python_and_licence_are_the_same_everywhere(project):
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_every_requirement_has_a_lowest_version(project):
    """`nox -s lowest` installs exactly these."""
    bare = [line for line in project["dependencies"] if not re.search(r"[~>=]=", line)]
    assert not bare


def test_installed_host_is_this_version():
    assert version("fivefold") == NUMBER


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
