"""Draw `pictures/steps.svg` out of `pictures/steps.json`; `--record` decodes to make the latter.

A box is one pass of the target; the text in it is what came out of that pass.
"""

from __future__ import annotations

import json
import sys
from html import escape
from itertools import accumulate
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
RECORD = FOLDER / "steps.json"
PROMPT = "Write a Python function that checks whether a number is prime, and explain it."
DRAFTING = "feature_head"
NUM_TOKENS = 48

CHARACTER, PAD, ROW, GAP, WIDTH, LEFT = 7.3, 5, 24, 6, 900, 12
COLOURS = ("#9aa5b1", "#5b8def", "#2f9e6e", "#d98e04", "#b5489a", "#7a5af0", "#c2410c")
"""Of boxes with one token, two tokens, and so on."""


def record() -> None:
    """Decode the prompt and write what each pass gave."""
    from fivefold_lm import FullAttention, ModelConfig, Sampler, SamplingConfig, load_model
    from fivefold_speculative import DraftLoader, Request
    from fivefold_speculative.choosing import choose
    from fivefold_speculative.engine import Engine

    model = load_model(ModelConfig())
    engine = Engine(
        model=model,
        attention=FullAttention(),
        sampler=Sampler(SamplingConfig(), vocab_size=model.vocab_size),
        drafting=choose("drafting", DRAFTING).build,
        drafts=DraftLoader(model),
    )
    batch = engine.batch([Request(model.encode(PROMPT), NUM_TOKENS)], text=False)
    passes = [[model.decode([token]) for token in step.new_tokens[0]] for step in batch.steps()]
    told = {"model": model.name, "prompt": PROMPT, "drafting": DRAFTING, "passes": passes}
    RECORD.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def boxes(passes: list[list[str]], top: float) -> tuple[list[str], float]:
    """Return the boxes of a text, line by line, and where they end."""
    drawn, left = [], float(LEFT)
    for tokens in passes:
        text = "".join(tokens).replace("\n", "⏎")
        width = max(len(text), 1) * CHARACTER + 2 * PAD
        if left + width > WIDTH - LEFT:
            left, top = LEFT, top + ROW + GAP
        colour = COLOURS[min(len(tokens), len(COLOURS)) - 1]
        cuts = list(accumulate(len(token) for token in tokens))[:-1]
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{ROW}" rx="4" '
            f'fill="{colour}" fill-opacity="0.22" stroke="{colour}"/>'
        )
        for cut in cuts:
            x = left + PAD + cut * CHARACTER
            drawn.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 4:.1f}" y2="{top + ROW - 4:.1f}" '
                f'stroke="{colour}" stroke-dasharray="2 2"/>'
            )
        place = f'x="{left + PAD:.1f}" y="{top + 16:.1f}" textLength="{width - 2 * PAD:.1f}"'
        drawn.append(
            f'<text {place} lengthAdjust="spacingAndGlyphs" xml:space="preserve">'
            f"{escape(text)}</text>"
        )
        left += width + GAP
    return drawn, top + ROW


def draw() -> None:
    """Write the picture."""
    told = json.loads(RECORD.read_text(encoding="utf-8"))
    passes: list[list[str]] = told["passes"]
    tokens = [[token] for tokens in passes for token in tokens]
    parts: list[str] = []
    top = 12.0
    for title, shown in (
        (f"plain decoding: {len(tokens)} passes of the model", tokens),
        (f"drafting={told['drafting']}: the same text in {len(passes)} passes", passes),
    ):
        parts.append(f'<text class="title" x="{LEFT}" y="{top + 14:.1f}">{escape(title)}</text>')
        drawn, end = boxes(shown, top + 26)
        parts += drawn
        top = end + 22
    style = (
        "text{font:12px ui-monospace,monospace;fill:#24292f}"
        ".title{font:600 14px system-ui,sans-serif}"
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" role="img">',
        f"<title>{escape(told['model'])}, {escape(told['drafting'])}: tokens of each pass</title>",
        f"<style>{style}</style>",
        *parts,
        "</svg>",
    ]
    (FOLDER / "steps.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--record" in sys.argv:
        record()
    draw()
