"""Write the page "which method when" out of the records of `benchmarks/`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
METHODS = HERE / "methods" / "drafting"
PAGE = METHODS / "which.md"
RECORDS = HERE / "benchmarks"
PLAIN = "none"
UNMEASURED = (
    ("nothing is known", "[`auto`](auto.md)", "the answer depends on machine, batch and sampler"),
    (
        "text that repeats itself or its prompt: code, extraction",
        "[`prompt_lookup`](prompt_lookup.md)",
        "there is no draft to run",
    ),
    ("several drafts", "[`specinfer`](specinfer.md)", "trees are merged, each draft keeps its law"),
    (
        "weights in host memory",
        "as where they stream from disk",
        "a pass costs so much that large trees are free; no drafting was measured there",
    ),
)
"""Case, method, reason: what no record holds."""
TITLE = "# Which drafting method when\n\n"
BEGIN = (
    "Begin with [`drafting=auto`](auto.md): it measures your machine and takes what promises most, "
    "plain decoding included; `fivefold plan` prints why. To choose by hand:"
)
BELOW = (
    "The rows of measured cases, and all that follows, are written by `docs/which.py` out of the "
    "records of [the benchmarks](../../benchmarks/index.md), and say nothing that they do not "
    "hold. In memory a method is named where it was surely faster than plain decoding (the "
    "interval lies above 1) in every class of prompts, and `none` elsewhere."
)


def page() -> str:
    """Return the page's text."""
    return text_of(record("drafting"), record("trees"), record("offload"))


def text_of(
    drafting: Mapping[str, Any], trees: Mapping[str, Any], offload: Mapping[str, Any]
) -> str:
    """Return the page's text for these records; an empty one was not made."""
    advice = [*UNMEASURED, *memory_advice(drafting), *disk_advice(offload)]
    parts = [TITLE, paragraph(BEGIN), table(("your case", "take", "because"), advice), "\n"]
    parts.append(paragraph(BELOW).rstrip("\n") + "\n")
    parts.append(in_memory(drafting))
    parts.append(yields(trees) or yields(drafting))
    parts.append(on_disk(offload))
    return "".join(parts)


def record(name: str) -> dict[str, Any]:
    """Return a benchmark's record, or nothing."""
    file = RECORDS / name / "result.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def rows_of(found: Mapping[str, Any], *keys: str) -> list[dict[str, Any]]:
    """Return the rows of a record that have all of these entries."""
    return [row for row in found.get("rows", ()) if set(keys) <= row.keys()]


def timed(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells in which `drafting=auto` was timed."""
    return rows_of(found, "planned", "ratio", "lower", "upper", "prompts", "temperature", "batch")


def method_of(label: str) -> str:
    """Return the method of a label such as `sequoia (kind=feature_head, nodes=8)`."""
    return label.partition(" (")[0]


def is_faster(cell: Mapping[str, Any]) -> bool:
    """Return whether a method was taken, and surely faster than plain decoding."""
    return bool(cell["lower"] > 1) and method_of(cell["planned"]) != PLAIN


def link(label: str) -> str:
    """Return a method as a link to its page, with the draft that it had."""
    name = method_of(label)
    shown = f"[`{name}`]({name}.md)" if (METHODS / f"{name}.md").is_file() else f"`{name}`"
    draft = [f"{key}={value}" for key, value in re.findall(r"\b(draft|kind)=([^,)]+)", label)]
    said = ", ".join(f"`{setting}`" for setting in draft if setting != "draft=shipped")
    return f"{shown} ({said})" if said else shown


def memory_advice(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a row of advice for each temperature: what to take at which batch."""
    advice = []
    for temperature in sorted({cell["temperature"] for cell in timed(found)}):
        cells = [cell for cell in timed(found) if cell["temperature"] == temperature]
        won = [cell["ratio"] for cell in cells if is_faster(cell)]
        reason = f"surely faster in {len(won)} of {len(cells)} cells"
        if won:
            reason += f", there {spread(won)} times plain decoding"
        advice.append((f"in memory, {sampler(temperature)}", by_batch(cells), reason))
    return advice


def by_batch(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return what to take at each batch, neighbours with the same answer together."""
    runs: list[tuple[str, list[int]]] = []
    for batch in sorted({cell["batch"] for cell in cells}):
        best = best_of([cell for cell in cells if cell["batch"] == batch])
        if runs and runs[-1][0] == best:
            runs[-1][1].append(batch)
        else:
            runs.append((best, [batch]))
    return "; ".join(f"batch {', '.join(map(str, batches))}: {best}" for best, batches in runs)


def best_of(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return what was surely faster in all of these cells, else plain decoding."""
    if not all(map(is_faster, cells)):
        return link(PLAIN)
    fastest_first = sorted(cells, key=lambda cell: -cell["ratio"])
    return " or ".join(dict.fromkeys(link(cell["planned"]) for cell in fastest_first))


def sampler(temperature: float) -> str:
    """Return a temperature in words."""
    return f"temperature {temperature:g}" if temperature else "greedy"


def spread(values: Sequence[float]) -> str:
    """Return the least and the greatest of some ratios."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def streaming(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a draft beside plain decoding, on a target that streams."""
    return [row for row in rows_of(found, "what", "ratio", "draft") if row["what"] == "ratio"]


def streamed(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return, for a disk as it is and for a slowed one, the rows of the draft that gained most.

    The most is that at the lowest temperature, as for the benchmark's figures.
    """
    rows = streaming(found)
    disks = {
        "as it is": [row for row in rows if not row["rate_mb_s"]],
        "slowed": [row for row in rows if row["rate_mb_s"]],
    }
    best = {}
    for disk, some in disks.items():
        if some:
            first = min(some, key=lambda row: (row["temperature"], -row["ratio"]))
            best[disk] = [row for row in some if row["draft"] == first["draft"]]
    return best


def disk_advice(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a row of advice for each speed of the disk."""
    cases = {
        "as it is": "weights stream from disk",
        "slowed": "weights stream, and a pass costs 100 of the draft's",
    }
    advice = []
    for disk, rows in streamed(found).items():
        pays = rows[0]["ratio"] > 1
        take = f"{link('specexec')}, `{draft_settings(rows[0]['draft'])}`" if pays else link(PLAIN)
        advice.append((cases[disk], take, f"{gains(rows)} times plain decoding"))
    return advice


def gains(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what a draft gained at each temperature, and with which trees."""
    said = []
    for row in rows:
        error = "" if row["logit_error"] is None else f", `logit_error` {row['logit_error']:g}"
        tree = f"{sampler(row['temperature'])}, {row['budget']} nodes{error}"
        said.append(f"{row['ratio']:.2f} ({tree})")
    return " and ".join(said)


def draft_settings(name: str) -> str:
    """Return the settings of a draft by the name that it has in `benchmarks/offload.py`."""
    bits = re.fullmatch(r"quantised (\d+) bits", name)
    if bits:
        return f"drafting.draft=quantised drafting.bits={bits[1]}"
    kind = " drafting.kind=feature_head" if name.endswith(" head") else ""
    return f"drafting.draft={name.removesuffix(' head')}{kind}"


def in_memory(found: Mapping[str, Any]) -> str:
    """Return the table of `drafting=auto` beside plain decoding."""
    cells = timed(found)
    if not cells:
        return ""
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
    plain = sum(method_of(row["planned"]) == PLAIN for row in cells)
    text = (
        "What `auto` took, and its tokens a second over plain decoding, with the 95 % interval "
        f"({machine(found)}). In {plain} of {len(cells)} cells it took plain decoding."
    )
    head = ("prompts", "temperature", "batch", "taken", "over plain")
    return "\n## In memory\n\n" + paragraph(text) + table(head, lines)


def yields(found: Mapping[str, Any]) -> str:
    """Return the table of tokens a pass, by method and size."""
    grown = rows_of(found, "growth", "nodes", "tokens_a_pass")
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


def on_disk(found: Mapping[str, Any]) -> str:
    """Return the table of streamed targets."""
    rows = streaming(found)
    if not rows:
        return ""
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


def machine(found: Mapping[str, Any]) -> str:
    """Return in a few words where a record was made."""
    where = found["environment"]
    return f"{where['cores']} cores of {where['cpu']}, torch {where['torch']}"


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)
