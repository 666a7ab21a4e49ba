"""Write what was measured of a drafting method into its page, between two marks.

The text is made of the records of `benchmarks/`; the rest of the page is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from which import (
    METHODS,
    draft_settings,
    gains,
    is_faster,
    machine,
    method_of,
    paragraph,
    record,
    rows_of,
    spread,
    streamed,
    table,
    timed,
)

BEGIN = "<!-- begin: written by docs/generate.py out of the records -->\n"
END = "<!-- end -->\n"
TREES = "../../benchmarks/index.md#trees"
CELL = ("draft", "prompts", "temperature")
"""What tells one cell of the yield of trees from another."""
RULES = ("naive", "multi_step", "without_replacement")
LEAD = "multi_step - naive"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page with a block, and its text with the block as it is made now."""
    drafting, trees, offload = record("drafting"), record("trees"), record("offload")
    blocks = {
        "sequoia": sequoia(drafting, trees),
        "specinfer": specinfer(drafting, trees),
        "specexec": specexec(drafting, offload),
    }
    for method, block in blocks.items():
        place = METHODS / f"{method}.md"
        yield place, with_block(place.read_text("utf-8"), block)


def with_block(text: str, block: str) -> str:
    """Return a page with another text between its marks.

    Raises:
        ValueError: the page has not each of the two marks once, in their order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"a page has one {BEGIN.strip()} and one {END.strip()}")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{END.strip()} stands before {BEGIN.strip()}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def sequoia(drafting: Mapping[str, Any], trees: Mapping[str, Any]) -> str:
    """Return what was measured of Sequoia: its largest tree beside chains and its prediction."""
    return joined(beside_chains(trees), taken("sequoia", drafting))


def specinfer(drafting: Mapping[str, Any], trees: Mapping[str, Any]) -> str:
    """Return what was measured of SpecInfer: its growth, and its rule beside the others."""
    return joined(growth("specinfer", trees), rules(trees), taken("specinfer", drafting))


def specexec(drafting: Mapping[str, Any], offload: Mapping[str, Any]) -> str:
    """Return what was measured of SpecExec: on targets whose weights stream, and in memory."""
    return joined(on_disk(offload), taken("specexec", drafting))


def joined(*parts: str) -> str:
    """Return the parts of a block, a blank line between two."""
    first, *others = (part.rstrip("\n") for part in parts)
    return "\n\n".join([f"**Measured.** {first}", *others]) + "\n"


def taken(method: str, found: Mapping[str, Any]) -> str:
    """Say how often `drafting=auto` took a method, and what that was worth."""
    cells = timed(found)
    if not cells:
        return paragraph("There is no record yet of how often [`auto`](auto.md) takes it.")
    own = [cell for cell in cells if method_of(cell["planned"]) == method]
    if not own:
        text = f"[`auto`](auto.md) took it in none of {len(cells)} [cells](which.md#in-memory)"
        return paragraph(f"{text} ({machine(found)}).")
    sure = sum(map(is_faster, own)) or "none"
    return paragraph(
        f"[`auto`](auto.md) took it in {len(own)} of {len(cells)} [cells](which.md#in-memory): "
        f"{spread([cell['ratio'] for cell in own])} times plain decoding's tokens a second, surely "
        f"above 1 in {sure} ({machine(found)})."
    )


def beside_chains(found: Mapping[str, Any]) -> str:
    """Return the table of the largest planned tree beside chains of as many nodes."""
    rows = [
        row
        for row in rows_of(found, *CELL, "tree", "nodes", "tokens_a_pass", "predicted")
        if row.get("ranked", True) and row.get("measured_on", "held_out") == "held_out"
    ]
    planned = [row for row in rows if row["tree"] == "sequoia"]
    if not planned:
        return paragraph(f"There is no record yet of its [tokens a target pass]({TREES}).")
    nodes = max(row["nodes"] for row in planned)
    lines = []
    for tree in (row for row in planned if row["nodes"] == nodes):
        same = [row for row in rows if all(row[key] == tree[key] for key in (*CELL, "nodes"))]
        lines.append(
            (
                tree["draft"],
                tree["prompts"],
                f"{tree['temperature']:g}",
                f"{tree['tokens_a_pass']:.2f} ± {tree['standard_error']:.2f}",
                f"{tree['predicted']:.2f}",
                *(yield_of(same, other) for other in ("chain", "k_chains")),
            )
        )
    head = (*CELL, "planned tree", "expected of it", "best chain", "best k chains")
    return paragraph(how_measured(nodes, len(lines), found)) + table(head, lines)


def how_measured(nodes: int, cells: int, found: Mapping[str, Any]) -> str:
    """Say what the table of planned trees holds, and whether it is whole."""
    where = found["environment"]
    wanted = len(where["kinds"]) * len(where["temperatures"]) * len(where["classes"])
    missing = f" The record is not whole: {cells} of {wanted} cells." if cells < wanted else ""
    return (
        f"[Tokens a target pass]({TREES}) of planned trees of {nodes} nodes, with the standard "
        f"error, and what was expected; beside them chains of as many nodes ({where['prompts']} "
        f"held-out prompts a class, {where['dtype']}).{missing}"
    )


def yield_of(rows: Iterable[Mapping[str, Any]], tree: str) -> str:
    """Return the tokens a pass of one tree of a cell; empty where there is no row yet."""
    return next((f"{row['tokens_a_pass']:.2f}" for row in rows if row["tree"] == tree), "")


def growth(method: str, found: Mapping[str, Any]) -> str:
    """Return how a method's tokens a pass grow with its tree."""
    rows = [
        row for row in rows_of(found, "growth", "nodes", "tokens_a_pass") if row["growth"] == method
    ]
    if not rows:
        return paragraph(f"There is no record yet of how its [yield]({TREES}) grows with the tree.")
    rows.sort(key=lambda row: row["nodes"])
    lines = [("tokens a pass", *(f"{row['tokens_a_pass']:.2f}" for row in rows))]
    text = f"Greedy [tokens a target pass]({TREES}) by nodes ({rows[0]['prompts']} prompts, the "
    return paragraph(f"{text}small independent draft):") + table(
        ("nodes", *(row["nodes"] for row in rows)), lines
    )


def rules(found: Mapping[str, Any]) -> str:
    """Return the acceptance of multi-step sampling beside that of the other rules."""
    rows = rows_of(found, "rule", "draft", "temperature", "acceptance")
    if not rows:
        return paragraph("There is no record yet of its rule beside others.")
    leads = {
        (row["draft"], row["temperature"]): f"{row['mean']:+.3f} ± {row['half_interval']:.3f}"
        for row in rows_of(found, "lead", "draft", "temperature", "mean", "half_interval")
        if row["lead"] == LEAD
    }
    lines = []
    for cell in dict.fromkeys((row["draft"], row["temperature"]) for row in rows):
        by_rule = {
            row["rule"]: f"{row['acceptance']:.3f}"
            for row in rows
            if (row["draft"], row["temperature"]) == cell
        }
        shares = (by_rule.get(rule, "") for rule in RULES)
        lines.append((cell[0], f"{cell[1]:g}", *shares, leads.get(cell, "")))
    text = (
        f"Share of nodes with {rows[0]['children']} children of which one stands, and the lead of "
        "multi-step sampling over naive sampling with its 95 % interval:"
    )
    head = ("draft", "temperature", "naive", "multi-step", "without replacement", "lead")
    return paragraph(text) + table(head, lines)


def on_disk(found: Mapping[str, Any]) -> str:
    """Say what the best draft gains on a target that streams from disk."""
    disks = streamed(found)
    if not disks:
        return paragraph("There is no record yet of targets that stream.")
    where = {
        "as it is": "on the disk as it is",
        "slowed": "with reads so slow that a target pass costs 100 of the draft's",
    }
    said = [f"{where[disk]}, {gains(rows)} with {draft_of(rows)}" for disk, rows in disks.items()]
    return paragraph(
        "Over plain decoding on the same [streaming](../../benchmarks/index.md#offload) target: "
        f"{'; '.join(said)} ({machine(found)})."
    )


def draft_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings of the draft of these rows."""
    return f"`{draft_settings(rows[0]['draft'])}`"
