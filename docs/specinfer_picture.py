"""Draw `pictures/specinfer_tree.svg` out of its `.json`; `--record` decodes first.

The tree that SpecInfer merged for one step of sampling: the shipped draft as it is (blue) and at a
higher temperature (amber); what both drew is one node (green). A number says how often a token was
drawn, where that is more than once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from specexec_picture import Look, draw

RECORD = Path(__file__).parent / "pictures" / "specinfer_tree.json"
PROMPT = "Write a Python function that checks whether a number is prime, and explain it."
WIDTHS, TEMPERATURES, NUM_TOKENS = [3, 2, 1], (0.7, 1.5), 40
COLOURS = {(0,): "#5b8def", (1,): "#d98e04", (0, 1): "#2f9e6e"}
ROOT = "#777777"


def record() -> None:
    """Decode the prompt; write the merged tree of the most nodes that both drafts drew."""
    from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
    from fivefold_specinfer.config import SpecInferConfig
    from fivefold_specinfer.drafter import build
    from fivefold_speculative import NoCorrection, Request, Session, decode, rule_for

    model = load_model(ModelConfig())
    session = Session(
        model,
        [Request(model.encode(PROMPT), NUM_TOKENS)],
        Sampler(SamplingConfig(temperature=TEMPERATURES[0]), vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
    )
    drafts = [{"draft": "shipped", "temperature": value} for value in TEMPERATURES]
    drafter = build(SpecInferConfig(widths=WIDTHS, drafts=drafts), session)
    rule = rule_for("auto", drafter, session.sampler)
    best: dict[str, Any] = {"owners": []}
    for _ in decode(session, drafter, rule, NoCorrection()):
        trie = drafter._trie
        tree = trie.tree
        homes = [home[0].tolist() for home in trie.homes]
        owners = [
            [number for number, home in enumerate(homes) if node in home]
            for node in range(tree.num_nodes)
        ]
        if _shared(owners) > _shared(best["owners"]):
            best = {
                "parents": tree.parents[0].tolist(),
                "texts": [model.decode([token]) for token in tree.tokens[0].tolist()],
                "owners": owners,
                "drawn": [
                    sum(home.count(node) for home in homes) for node in range(tree.num_nodes)
                ],
            }
    told = {"model": model.name, "prompt": PROMPT, "widths": WIDTHS, "temperatures": TEMPERATURES}
    RECORD.write_text(json.dumps(told | best, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _shared(owners: list[list[int]]) -> int:
    return sum(len(each) > 1 for each in owners[1:])


def main() -> int:
    """Draw; with `--record`, decode first."""
    if "--record" in sys.argv:
        record()
    told = json.loads(RECORD.read_text(encoding="utf-8"))
    texts = [
        text if node == 0 or times == 1 else f"{text}\u00d7{times}"
        for node, (text, times) in enumerate(zip(told["texts"], told["drawn"], strict=True))
    ]
    looks = [
        Look(ROOT if node == 0 else COLOURS[tuple(owners)], 0.25, 1)
        for node, owners in enumerate(told["owners"])
    ]
    RECORD.with_suffix(".svg").write_text(draw(told["parents"], texts, looks), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
