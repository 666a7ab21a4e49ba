"""A third party's plugin: copied anywhere, installed by pip alone, held to the exam."""

import ast
import re
import shutil
from pathlib import Path

import documents
import pytest

HOUSE = documents.HOUSE
TEMPLATE = HOUSE / "plugins" / "template"
VARIANT = Path(__file__).with_name("variants") / "drafter.py"
BUGS = sorted(re.findall(r'if BUG == "(\w+)"', VARIANT.read_text("utf-8")))

QUICK = ("dropped_duplicates", "noise_reused", "topk_as_sampled")


def test_its_settings_are_in_the_help(fivefold, with_template):
    ended = fivefold("generate", "--help", "drafting=my_method", env=with_template)
    assert ended.status == 0
    assert "drafting.length" in ended.out
    assert "Tokens proposed in each step." in ended.out


def test_it_is_listed_among_the_plugins(fivefold, with_template):
    assert "my_method" in fivefold("plugins", env=with_template).out


def test_it_passes_its_exam(template, with_template, sit_exam):
    done = sit_exam(template / "tests", with_template)
    assert done.returncode == 0, done.stdout


def variant(bug: str, folder: Path) -> Path:
    """Copy the template with drawn children and one bug."""
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "src" / "my_method"
    text = VARIANT.read_text("utf-8").replace('BUG = "none"', f'BUG = "{bug}"')
    (package / "drafter.py").write_text(text, "utf-8")
    described = (package / "__init__.py").read_text("utf-8")
    (package / "__init__.py").write_text(described.replace("POINT_MASS", "SAMPLED"), "utf-8")
    return folder


def test_its_variant_with_drawn_children_passes_the_exam(tmp_path, pip_install, sit_exam):
    folder = variant("none", tmp_path / "variant")
    done = sit_exam(folder / "tests", pip_install(folder))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "bug", [b if b in QUICK else pytest.param(b, marks=pytest.mark.slow) for b in BUGS]
)
def test_seeded_bug_fails_the_exam(tmp_path, pip_install, sit_exam, bug):
    folder = variant(bug, tmp_path / "variant")
    done = sit_exam(folder / "tests", pip_install(folder))
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout


def test_method_is_about_thirty_lines_and_its_test_three():
    assert sum(lines_of_code(file) for file in TEMPLATE.glob("src/**/*.py")) <= 33
    assert lines_of_code(TEMPLATE / "tests" / "test_my_method.py") == 3


def test_plugin_of_the_readme_runs_and_passes_the_exam(tmp_path, fivefold, pip_install, sit_exam):
    (code,) = [b for b in documents.blocks(HOUSE / "README.md", "python") if "hookimpl" in b]
    tutorial = HOUSE / "docs" / "tutorials" / "write-a-plugin.md"
    (project,), (test,) = (list(documents.blocks(tutorial, kind)) for kind in ("toml", "python"))
    folder = tmp_path / "repeat-last"
    (folder / "tests").mkdir(parents=True)
    (folder / "repeat_last.py").write_text(code, "utf-8")
    (folder / "pyproject.toml").write_text(project, "utf-8")
    (folder / "tests" / "test_repeat_last.py").write_text(test, "utf-8")
    assert lines_of_code(folder / "repeat_last.py") <= 21
    installed = pip_install(folder)
    ended = fivefold("generate", "--help", "drafting=repeat_last", env=installed)
    assert "Tokens proposed in each step." in ended.out
    done = sit_exam(folder / "tests", installed)
    assert done.returncode == 0, done.stdout


def lines_of_code(file: Path) -> int:
    """Count lines that hold code: no docstring, no comment, no blank line."""
    text = file.read_text("utf-8")
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            told |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    code = [n for n, line in lines if line.strip() and not line.strip().startswith("#")]
    return len(set(code) - told)
