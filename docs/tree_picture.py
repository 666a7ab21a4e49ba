"""Draw `pictures/sequoia_tree.svg` out of `pictures/sequoia_tree.json`; `--record` measures it.

The tree is the one that Sequoia plans for the recorded acceptance; a node's colour says how often
it stands, which is what the plan maximises the sum of.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from fivefold_sequoia.planning import plan
from fivefold_speculative import AcceptanceVector, TreeTopology

FOLDER = Path(__file__).parent / "pictures"
RECORD = FOLDER / "sequoia_tree.json"
NODES, LEVELS = 32, 8
WIDTH, ROW, LEFT, TOP = 900, 54, 24, 64
KIND = "feature_head"


def record() -> None:
    """Measure the acceptance of the shipped draft and write it."""
    from fivefold_lm import ModelConfig, Sampler, SamplingConfig, load_model
    from fivefold_speculative import DraftKind, DraftLoader, Proposal, remembered_acceptance

    model = load_model(ModelConfig())
    draft = DraftLoader(model)("shipped", DraftKind(KIND))
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    remembered_acceptance(model, draft, sampler, Proposal.POINT_MASS, say=print).write(RECORD)


def chances(tree: TreeTopology, vector: AcceptanceVector) -> list[float]:
    """Return how often each node stands."""
    ranked = vector.ranked
    row = vector.probs if ranked is None else ranked.root_row(ranked.roots(tree))
    found = [1.0]
    for node, parent in enumerate(tree.parents[1:], start=1):
        if parent and ranked is not None:
            rank = ranked.class_of(tree.child_index[parent])
            found.append(
                found[parent] * ranked.row(tree.depths[parent], rank)[tree.child_index[node]]
            )
        else:
            found.append(found[parent] * row[tree.child_index[node]])
    return found


def places(tree: TreeTopology) -> list[tuple[float, float]]:
    """Return where each node stands: leaves side by side, parents over their children's middle."""
    order: list[int] = []

    def visit(node: int) -> None:
        if not tree.children[node]:
            order.append(node)
        for child in tree.children[node]:
            visit(child)

    visit(0)
    step = (WIDTH - 2 * LEFT) / len(order)
    x = {leaf: LEFT + (place + 0.5) * step for place, leaf in enumerate(order)}
    for node in reversed(range(tree.num_nodes)):
        if node not in x:
            below = [x[child] for child in tree.children[node]]
            x[node] = (below[0] + below[-1]) / 2
    return [(x[node], TOP + ROW * tree.depths[node]) for node in range(tree.num_nodes)]


def colour(chance: float) -> str:
    """Return a colour between pale and deep blue."""
    share = chance**0.5
    low, high = (216, 226, 240), (31, 84, 160)
    r, g, b = (round(a + (z - a) * share) for a, z in zip(low, high, strict=True))
    return f"rgb({r},{g},{b})"


def draw() -> None:
    """Write the picture."""
    vector = AcceptanceVector.read(RECORD)
    tree = plan(vector, NODES, LEVELS)
    assert all(a <= b for a, b in pairwise(tree.depths))
    at, stands = places(tree), chances(tree, vector)
    height = TOP + ROW * (tree.num_levels - 1) + 30
    first = ", ".join(f"{p:.2f}" for p in vector.probs[:4])
    size = f"{tree.num_nodes} nodes, {tree.num_levels} levels"
    title = f"{size}: {sum(stands):.2f} tokens expected a pass"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Sequoia's tree: {title}</title>",
        "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;"
        "font-size:14px}.inside{font-size:9px;text-anchor:middle}line{stroke:#9aa5b1}"
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
        f'<text class="title" x="{LEFT}" y="20">{title}</text>',
        f'<text x="{LEFT}" y="38">shipped {KIND} of SmolLM2, greedy: the first, second, … child '
        f"stands in {first}, … of the nodes</text>",
    ]
    for node, parent in enumerate(tree.parents[1:], start=1):
        (x, y), (u, v) = at[node], at[parent]
        lines.append(f'<line x1="{u:.1f}" y1="{v:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
    for (x, y), chance in zip(at, stands, strict=True):
        ink = "#ffffff" if chance > 0.12 else "#24292f"
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="12" fill="{colour(chance)}"/>')
        lines.append(
            f'<text class="inside" x="{x:.1f}" y="{y + 3:.1f}" style="fill:{ink}">'
            f"{100 * chance:.0f}</text>"
        )
    (FOLDER / "sequoia_tree.svg").write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--record" in sys.argv:
        record()
    draw()
