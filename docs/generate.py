"""Write what is made: the command line of `--help`; which method when, and figures, of records.

`--check` only compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import measured
import which

PAGE = Path(__file__).parent / "reference" / "command-line.md"
TASKS = (
    "generate",
    "chat",
    "bench",
    "audit",
    "plan",
    "demo",
    "kernels",
    "train",
    "train plan",
    "train inspect",
    "graph",
    "graph plan",
    "graph predict",
    "quantum",
    "quantum plan",
    "quantum export",
    "plugins",
    "cache",
)
TASK_OF = {
    "fivefold-mst-train": "train",
    "fivefold-gnnpipe": "graph",
    "fivefold-quark": "quantum",
}
"""The task whose help describes the methods of a wheel; `generate` for the others."""
HEAD = """# Command line

This page is what `fivefold --help` prints, written by `docs/generate.py`; a test compares.
"""


def fivefold(*words: str) -> str:
    """Return what `fivefold` prints, 80 columns wide."""
    command = [sys.executable, "-m", "fivefold", *words]
    ours_alone = {"FIVEFOLD_BLOCK": "my-method"}  # the template may be installed for work on it
    env = {**os.environ, **ours_alone, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def block(text: str) -> str:
    """Return a text as a fenced block."""
    return f"\n```text\n{text}\n```\n"


def method_settings(task: str, hook: str, name: str) -> str:
    """Return the part of the help that describes one method's settings."""
    lines = fivefold(task, "--help", f"{hook}={name}").splitlines()
    title = f" Settings of {name}:"
    if title not in lines:
        return ""
    rest = lines[lines.index(title) + 1 :]
    return "\n".join(rest[: rest.index("")])


def page() -> str:
    """Return the page's text."""
    parts = [HEAD, block(fivefold("--help"))]
    for task in TASKS:
        parts += [f"\n## fivefold {task}\n", block(fivefold(*task.split(), "--help"))]
    parts.append("\n## Settings of the methods\n")
    for plugin in json.loads(fivefold("plugins", "--json"))["plugins"]:
        for method in plugin["methods"] if plugin["distribution"].startswith("fivefold") else []:
            task = TASK_OF.get(plugin["distribution"], "generate")
            settings = method_settings(task, method["hook"], method["name"])
            if settings:
                where = "" if task == "generate" else f" of {task}"
                parts += [f"\n### {method['hook']}={method['name']}{where}\n", block(settings)]
    return "".join(parts)


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that is made, wholly or between two marks, and its text."""
    yield which.PAGE, which.page()
    yield from measured.pages()
    yield PAGE, page()


def main() -> int:
    """Write the pages, or say with `--check` whether they are what would be written."""
    for place, made in pages():
        if "--check" not in sys.argv:
            place.write_text(made, encoding="utf-8")
        elif not place.is_file() or place.read_text(encoding="utf-8") != made:
            print(f"{place.name} is old; run `python docs/generate.py`")
            return 1
    print("the pages that are made are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
