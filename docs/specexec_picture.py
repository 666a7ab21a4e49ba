"""Draw `pictures/specexec_tree.svg` out of `pictures/specexec_tree.json`; `--record` decodes first.

The tree is one that SpecExec grew for the shipped feature head: a column a depth, boxes darker the
more probable the draft holds their path, and outlined where the target's own tokens went.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "pictures"
RECORD = FOLDER / "specexec_tree.json"
PROMPT = "Write a Python function that checks whether a number is prime, and explain it."
BUDGET, NUM_TOKENS = 24, 64

CHARACTER, PAD, HEIGHT, GAP, COLUMN, MARGIN = 7.3, 6, 22, 5, 26, 12
DRAFTED, TAKEN = "#5b8def", "#2f9e6e"


def record() -> None:
    """Decode the prompt; write the tree of which most was accepted."""
    from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
    from fivefold_specexec import SpecExecConfig
    from fivefold_specexec.drafter import build
    from fivefold_specexec.growth import Growth
    from fivefold_speculative import NoCorrection, Request, Session, decode, rule_for

    model = load_model(ModelConfig())
    session = Session(
        model,
        [Request(model.encode(PROMPT), NUM_TOKENS)],
        Sampler(SamplingConfig(), vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
    )
    drafter = build(SpecExecConfig(kind="feature_head", budget=BUDGET, decay=1.0), session)
    scores, grown = [], Growth.tree
    trees = []

    def watched(growth: Growth) -> Any:
        scores.append(growth.scores[0].tolist())
        trees.append(grown(growth))
        return trees[-1]

    Growth.tree = watched  # type: ignore[method-assign, assignment]
    rule = rule_for("auto", drafter, session.sampler)
    best: dict[str, Any] = {"taken": []}
    for outcome in decode(session, drafter, rule, NoCorrection()):
        taken = outcome.accepted.path[0, : int(outcome.accepted.count)].tolist()
        if len(taken) > len(best["taken"]):
            tree = trees[-1]
            best = {
                "taken": taken,
                "parents": tree.parents[0].tolist(),
                "texts": [model.decode([token]) for token in tree.tokens[0].tolist()],
                "logp": scores[-1][: tree.num_nodes],
                "next": model.decode(outcome.new_tokens[0][-1:]),
            }
    told = {"model": model.name, "prompt": PROMPT, "budget": BUDGET, **best}
    RECORD.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shown(text: str) -> str:
    """Return a token's text as a label."""
    return text.replace("\n", "⏎").replace(" ", "·") or "∅"


class Look(NamedTuple):
    """How a node's box is drawn."""

    colour: str
    shade: float
    """Opacity of its ground."""
    stroke: float
    """Width of its outline."""


def grown_look(told: dict[str, Any]) -> list[Look]:
    """Return the boxes of a grown tree: darker the more probable, outlined where taken."""
    taken = set(told["taken"])
    return [
        Look(
            TAKEN if node in taken else DRAFTED,
            0.08 + 0.5 * math.exp(score),
            2 if node in taken else 0.6,
        )
        for node, score in enumerate(told["logp"])
    ]


def draw(parents: list[int], tokens: list[str], looks: list[Look]) -> str:
    """Return a tree as SVG."""
    texts = [shown(text) for text in tokens]
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    rows: dict[int, int] = {}

    def place(node: int, row: int) -> int:
        """Give a node its row, its children the same and the following ones."""
        rows[node] = row
        for index, child in enumerate(children.get(node, [])):
            row = place(child, row + (index > 0))
        return row

    last = place(0, 0)
    widths = [
        max(len(texts[node]) for node, depth in enumerate(depths) if depth == level) * CHARACTER
        + 2 * PAD
        for level in range(max(depths) + 1)
    ]
    lefts = [MARGIN + sum(widths[:level]) + COLUMN * level for level in range(len(widths))]
    parts = []
    for node, parent in enumerate(parents):
        x, y = lefts[depths[node]], MARGIN + rows[node] * (HEIGHT + GAP)
        colour, shade, stroke = looks[node]
        if parent >= 0:
            start = lefts[depths[parent]] + len(texts[parent]) * CHARACTER + 2 * PAD
            above = MARGIN + rows[parent] * (HEIGHT + GAP) + HEIGHT / 2
            parts.append(
                f'<path d="M{start:.1f} {above:.1f} C{x - 10:.1f} {above:.1f} {start + 10:.1f} '
                f'{y + HEIGHT / 2:.1f} {x:.1f} {y + HEIGHT / 2:.1f}" fill="none" '
                f'stroke="{colour}" stroke-opacity="0.6"/>'
            )
        width = len(texts[node]) * CHARACTER + 2 * PAD
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT}" rx="4" '
            f'fill="{colour}" fill-opacity="{shade:.2f}" stroke="{colour}" '
            f'stroke-width="{stroke}"/>'
            f'<text x="{x + PAD:.1f}" y="{y + 15:.1f}">{escape(texts[node])}</text>'
        )
    right = lefts[-1] + widths[-1] + MARGIN
    bottom = MARGIN + (last + 1) * (HEIGHT + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {bottom:.0f}" '
        f'width="{right:.0f}" font-family="monospace" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> int:
    """Draw; with `--record`, decode first."""
    if "--record" in sys.argv:
        record()
    told = json.loads(RECORD.read_text(encoding="utf-8"))
    picture = draw(told["parents"], told["texts"], grown_look(told))
    RECORD.with_suffix(".svg").write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
