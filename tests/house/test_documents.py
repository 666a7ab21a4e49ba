"""What README and docs say is what the code does."""

import ast
import json
import re
import shutil
import subprocess

import documents
import pytest
from fivefold import UserError

HOUSE = documents.HOUSE
README = (HOUSE / "README.md").read_text("utf-8")
MACHINE = re.compile(r"(?m)(^|[^A-Za-z0-9_.])/(work|farm|root|opt/wheels|tmp/[a-z])\b")
ANSWERED_AT_ONCE = {"plugins", "cache", "--help", "--version", "-sc", "--hydra-help"}
COMMANDS = documents.found("fivefold")


AT_ONCE = [(name, words) for name, words in COMMANDS if ANSWERED_AT_ONCE & set(words)]
RUNS = [(name, words) for name, words in COMMANDS if not ANSWERED_AT_ONCE & set(words)]


def names(commands):
    return [" ".join(words)[:60] for _, words in commands]


@pytest.mark.parametrize(("document", "words"), AT_ONCE, ids=names(AT_ONCE))
def test_command_that_is_answered_at_once_is_answered(
    fivefold, with_template, used_cache, document, words
):
    ended = fivefold(*words, cwd=HOUSE, env={**with_template, **used_cache})
    assert ended.status == 0, f"{document}: {ended.err}"


@pytest.mark.parametrize(("document", "words"), RUNS, ids=names(RUNS))
def test_command_in_the_documents_would_run(accept, document, words):
    """Its settings compose, and pass the checks of their classes and of the task."""
    for job in documents.jobs(words):
        accept(job)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "max_new_tokens=0"],
        ["generate", "drafting=my_method", "rule=multi_step"],
        ["bench", "methods=[chian]"],
        ["bench", "methods=[{chain:{lenght:2}}]"],
        ["generate", "drafting=auto", "drafting.methods=[chian]"],
        ["audit", "+experiment=sampled_audit", "sampling.top_p=7"],
    ],
)
def test_command_that_would_be_refused_is_noticed(accept, words):
    with pytest.raises(UserError):
        accept(words)


def test_every_job_of_a_sweep_is_looked_at():
    words = ["-m", "bench", "drafting=chain", "drafting.length=2,4", "methods=[a,b]"]
    assert [job[2] for job in documents.jobs(words)] == ["drafting.length=2", "drafting.length=4"]
    assert len(documents.jobs(words[1:])) == 1


def test_commands_of_the_documents_never_see_the_users_cache(fivefold, python, tmp_path_factory):
    """One of them is `fivefold cache clear`."""
    assert ("docs/tasks/cache.md", ["cache", "clear"]) in COMMANDS
    of_the_tests = str(tmp_path_factory.getbasetemp())
    assert of_the_tests in fivefold("cache").out
    assert of_the_tests in python("from fivefold.cache import cache_folder; print(cache_folder())")


def test_every_start_command_names_a_session():
    sessions = re.findall(r"@nox.session.*\ndef (\w+)", (HOUSE / "noxfile.py").read_text("utf-8"))
    named = [words[1] for _, words in documents.found("python3") if words[:1] == ["start.py"]]
    assert named
    assert set(named) <= set(sessions)


def test_set_up_of_contributing_is_that_of_the_sessions():
    """One library comes as source: without setuptools it cannot be built."""
    noxfile = (HOUSE / "noxfile.py").read_text("utf-8")
    backends = ast.literal_eval(re.search(r"(?m)^BACKENDS = (.*)$", noxfile)[1])
    given = [words for name, words in documents.found("pip") if name == "CONTRIBUTING.md"]
    assert given[0] == ["install", "-c", "constraints.txt", *backends]
    assert "setuptools" in backends
    assert noxfile.count('--no-build-isolation", *editable') == noxfile.count("*BACKENDS)")


def test_ci_runs_the_test_command_of_the_readme():
    command = (HOUSE / ".ci" / "run").read_text("utf-8").splitlines()[-1].removeprefix("exec ")
    readme = [words for name, words in documents.found("python3") if name == "README.md"]
    assert command.split()[1:] in readme


def test_every_folder_that_pip_is_given_exists():
    for document, words in documents.found("pip"):
        for word in words:
            if word.startswith(("./packages", "packages", "./plugins", "plugins")):
                assert (HOUSE / word.partition("[")[0]).is_dir(), (document, word)


def test_readme_table_leads_every_paper_to_its_folder():
    rows = re.findall(r"(?m)^\|[^|]+\| *(\[`([\w/-]+)`\]\(([\w/-]+)\)|planned[^|]*) *\|", README)
    folders = [path for _, shown, path in rows if path]
    assert folders
    assert all((HOUSE / path).is_dir() for path in folders)
    assert all(shown == path for _, shown, path in rows)
    named = {path for path in folders if path.startswith("plugins/")}
    plugins = {f"plugins/{f.parent.name}" for f in HOUSE.glob("plugins/*/pyproject.toml")}
    assert named == plugins - {"plugins/template"}


def test_readme_marks_as_planned_only_what_is_not_there():
    planned = re.findall(r"planned \(`([\w/-]+)`\)", README)
    assert planned
    assert not [path for path in planned if (HOUSE / path).exists()]


def test_every_method_and_task_has_its_page(fivefold):
    ours_alone = {"FIVEFOLD_BLOCK": "my-method"}
    listed = json.loads(fivefold("plugins", "--json", env=ours_alone).out)
    for plugin in listed["plugins"]:
        for method in plugin["methods"]:
            page = HOUSE / "docs" / "methods" / method["hook"] / f"{method['name']}.md"
            assert page.is_file() or plugin["name"] == "my_method", page
        for task in plugin["tasks"]:
            page = f"{task['name'].replace(' ', '-')}.md"
            assert (HOUSE / "docs" / "tasks" / page).is_file(), task


def test_every_page_stands_in_the_navigation():
    navigation = (HOUSE / "mkdocs.yml").read_text("utf-8")
    pages = [str(file.relative_to(HOUSE / "docs")) for file in HOUSE.glob("docs/**/*.md")]
    assert [page for page in pages if page not in navigation] == []


COVERAGE = sorted((HOUSE / "docs" / "coverage").glob("*.md"))


@pytest.mark.parametrize("page", COVERAGE, ids=lambda page: page.stem)
def test_every_test_named_in_a_coverage_page_exists(page):
    named = re.findall(r"`([\w/.-]+\.py)::(\w+)`", page.read_text("utf-8"))
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (HOUSE / file).is_file()
        or not re.search(rf"\b(def|class) {name}\b", (HOUSE / file).read_text("utf-8"))
    ]
    assert not missing


@pytest.mark.skipif(
    not (shutil.which("git") and (HOUSE / ".git").exists()), reason="not a checkout, or no git"
)
def test_no_tracked_file_holds_a_path_of_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=True
    ).stdout
    held = []
    for name in filter(None, tracked.split("\0")):
        file = HOUSE / name
        try:
            text = file.read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        if MACHINE.search(text):
            held.append(name)
    assert not held


def test_command_line_reference_is_what_the_help_says(python, with_template):
    """Also where the template is installed, which is no part of the reference."""
    assert "up to date" in python(
        "import runpy, sys; sys.argv = ['generate.py', '--check']; "
        f"sys.path.insert(0, {str(HOUSE / 'docs')!r}); "
        f"runpy.run_path({str(HOUSE / 'docs' / 'generate.py')!r}, run_name='__main__')",
        env=with_template,
    )


def test_command_line_reference_has_the_settings_of_every_method():
    page = (HOUSE / "docs" / "reference" / "command-line.md").read_text("utf-8")
    for method in ("prompt_lookup", "chain", "expansion", "feature_head"):
        _, found, settings = page.partition(f"### drafting={method}\n")
        assert found
        assert "  drafting." in settings.partition("###")[0]


def test_python_of_the_hugging_face_page_runs(python, tmp_path):
    from fivefold_lm.testing import tiny_model

    model = tiny_model(vocab=128, eos_token_id=None)
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    code, _ = documents.blocks(HOUSE / "docs" / "how-to" / "hugging-face.md", "python")
    assert python(code.replace("path/to/model", "model")).startswith("def")


def test_python_of_the_graph_tutorial_runs(python):
    page = HOUSE / "docs" / "tutorials" / "train-a-deep-gnn.md"
    (code,) = documents.blocks(page, "python")
    assert "bytes an epoch" in python(code.replace("epochs=100", "epochs=2"))


def test_python_of_the_trainer_page_runs(python, tmp_path):
    """The two lines before a `Trainer`, and the `Trainer`."""
    from fivefold_lm.testing import tiny_model

    tiny_model(vocab=128, eos_token_id=None).module.save_pretrained(tmp_path / "model")
    (code,) = documents.blocks(HOUSE / "docs" / "how-to" / "trainer.md", "python")
    assert "train_loss" in python(code.replace("path/to/model", "model"))


@pytest.mark.model
def test_python_that_writes_the_draft_out_runs(python, tmp_path):
    _, code = documents.blocks(HOUSE / "docs" / "how-to" / "hugging-face.md", "python")
    python(code)
    assert (tmp_path / "smollm2-draft" / "config.json").is_file()


@pytest.mark.model
def test_python_of_the_readme_runs(python):
    (code,) = [b for b in documents.blocks(HOUSE / "README.md", "python") if "generate(" in b]
    assert "tokens a pass" in python(code)
