"""Write the page "which method when" out of the records of `benchmarks/`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "methods" / "drafting" / "which.md"
RECORDS = HERE / "benchmarks"
CHOICES = (
    ("nothing is known", "[`auto`](auto.md)", "the answer depends on machine, batch and sampler"),
    (
        "text that repeats itself or its prompt: code, extraction",
        "[`prompt_lookup`](prompt_lookup.md)",
        "there is no draft to run",
    ),
    (
        "one request in memory",
        "[`sequoia`](sequoia.md) when greedy, [`specexec`](specexec.md) or "
        "[`feature_head`](feature_head.md) when sampling, `drafting.kind=feature_head`",
        "few nodes, well chosen, as verifying is not free",
    ),
    ("several drafts", "[`specinfer`](specinfer.md)", "trees are merged, each draft keeps its law"),
    (
        "weights on disk or in host memory",
        "`specexec`, `drafting.draft=quantised`",
        "a pass costs so much that large trees are free",
    ),
    ("batches of eight and more in memory", "[`none`](none.md)", "the cores are busy as it is"),
)
"""Case, method, reason."""
TITLE = "# Which drafting method when\n\n"
BEGIN = (
    "Begin with [`drafting=auto`](auto.md): it measures your machine and takes what promises most, "
    "plain decoding included; `fivefold plan` prints why. To choose by hand:"
)
BELOW = (
    "What follows is written by `docs/which.py` out of the records of "
    "[the benchmarks](../../benchmarks/index.md), and says nothing that they do not hold."
)


def page() -> str:
    """Return the page's text."""
    drafting, offload = record("drafting"), record("offload")
    parts = [TITLE, paragraph(BEGIN), table(("your case", "take", "because"), CHOICES), "\n"]
    parts.append(paragraph(BELOW).rstrip("\n") + "\n")
    if drafting:
        parts.append(in_memory(drafting))
        parts.append(yields(drafting))
    if offload:
        parts.append(on_disk(offload))
    return "".join(parts)


def record(name: str) -> dict[str, Any]:
    """Return a benchmark's record, or nothing."""
    file = RECORDS / name / "result.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def in_memory(found: dict[str, Any]) -> str:
    """Return the table of `drafting=auto` beside plain decoding."""
    cells = [row for row in found["rows"] if "planned" in row]
    lines = [
        (
            row["prompts"],
            f"{row['temperature']:g}",
            row["batch"],
            f"`{row['planned']}`",
            f"{row['ratio']:.2f} ({row['lower']:.2f} to {row['upper']:.2f})",
        )
        for row in cells
    ]
    plain = sum(row["planned"] == "none" for row in cells)
    text = (
        "What `auto` took, and its tokens a second over plain decoding, with the 95 % interval "
        f"({machine(found)}). In {plain} of {len(cells)} cells it took plain decoding."
    )
    head = ("prompts", "temperature", "batch", "taken", "over plain")
    return "\n## In memory\n\n" + paragraph(text) + table(head, lines)


def yields(found: dict[str, Any]) -> str:
    """Return the table of tokens a pass, by method and size."""
    grown = [row for row in found["rows"] if "growth" in row and "tokens_a_pass" in row]
    if not grown:
        return ""
    sizes = sorted({row["nodes"] for row in grown})
    lines = []
    for method in dict.fromkeys(row["growth"] for row in grown):
        by_size = {row["nodes"]: row["tokens_a_pass"] for row in grown if row["growth"] == method}
        lines.append((method, *(f"{by_size[n]:.2f}" if n in by_size else "" for n in sizes)))
    text = (
        "Where a pass costs the same whatever is verified in it (weights that are streamed, large "
        "models on a GPU), this is what a method gains. Greedy, "
        f"{grown[0]['prompts']} prompts, the small independent draft."
    )
    rows = table(("nodes", *map(str, sizes)), lines)
    return "\n## Tokens a pass by tree size\n\n" + paragraph(text) + rows


def on_disk(found: dict[str, Any]) -> str:
    """Return the table of streamed targets."""
    rows = [row for row in found["rows"] if row["what"] == "ratio"]
    lines = [
        (
            row["draft"],
            f"{row['rate_mb_s']:.0f} MB/s" if row["rate_mb_s"] else "as it comes",
            f"{row['temperature']:g}",
            row["budget"],
            "" if row["logit_error"] is None else f"{row['logit_error']:g}",
            f"{row['tokens_per_pass']:.1f}",
            f"{row['ratio']:.2f}",
        )
        for row in rows
    ]
    head = ("draft", "disk", "temperature", "nodes", "error", "tokens a pass", "over plain")
    text = (
        "`drafting=specexec` over plain decoding on the same streaming engine "
        f"({machine(found)}); slowed reads make a target pass cost 100 passes of that draft, as in "
        "the published set-ups. Nodes and error (`drafting.logit_error`) are the best on a prompt "
        "that is not measured."
    )
    return "\n## Weights on disk\n\n" + paragraph(text) + table(head, lines)


def paragraph(text: str) -> str:
    """Return a paragraph, wrapped as the other pages are."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n\n"


def machine(found: dict[str, Any]) -> str:
    """Return in a few words where a record was made."""
    where = found["environment"]
    return f"{where['cores']} cores of {where['cpu']}, torch {where['torch']}"


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)
