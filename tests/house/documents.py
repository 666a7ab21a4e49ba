"""The documents as the house tests read them: files, fenced blocks, commands."""

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path

HOUSE = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        HOUSE / "README.md",
        HOUSE / "CONTRIBUTING.md",
        *HOUSE.glob("docs/**/*.md"),
        *HOUSE.glob("packages/*/README.md"),
        *HOUSE.glob("plugins/*/README.md"),
        *HOUSE.glob("recipes/**/*.md"),
    ]
)


def blocks(file: Path, language: str) -> Iterator[str]:
    """Yield the fenced blocks of one language."""
    fence = re.compile(rf"^```{language}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    yield from (found[1] for found in fence.finditer(file.read_text("utf-8")))


def commands(file: Path, program: str) -> Iterator[list[str]]:
    """Yield the words of every command that a document's shell blocks give to a program."""
    for block in blocks(file, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if word == program and (start == 0 or words[start - 1] in ("&&", "|")):
                    rest = words[start + 1 :]
                    ends = [rest.index(mark) for mark in ("&&", "|", ">") if mark in rest]
                    yield rest[: min(ends, default=len(rest))]


def found(program: str) -> list[tuple[str, list[str]]]:
    """Return (document, words) of every command of a program in the documents."""
    return [
        (str(file.relative_to(HOUSE)), words)
        for file in DOCUMENTS
        for words in commands(file, program)
    ]


def jobs(words: list[str]) -> list[list[str]]:
    """Return the words of each job that a command runs: those of a sweep one by one."""
    if "-m" not in words:
        return [words]
    choices = [
        [f"{key}={value}" for value in values.split(",")] if is_swept(values) else [word]
        for word in words
        if word != "-m"
        for key, _, values in [word.partition("=")]
    ]
    return [list(job) for job in product(*choices)]


def is_swept(values: str) -> bool:
    """Whether Hydra reads several values here: no list, no mapping."""
    return "," in values and values[0] not in "[{"
