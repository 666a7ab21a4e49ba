"""The exam of a drafting method on a target whose layers are streamed: the resident's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from fivefold.result import Result
from fivefold.testing import compose
from fivefold_lm.testing import tiny_model

from .fronts import generate

STREAMED = {
    "disk": ("model.offload=disk", "model.memory=96KiB"),
    "host": ("model.offload=host", "model.memory=96KiB"),
}
"""Settings under which the three layers of the target are streamed, by where they lie."""
KERNELS = {"disk": "model.kernels=auto", "host": "model.kernels=torch"}
"""Kernels of the target, streamed or not, that are bit for bit the same there."""


def save_noisy(root: Path, names: Sequence[str]) -> None:
    """Save a tiny model once a name, each time with more noise on its weights."""
    model = tiny_model(vocab=24)
    for name in names:
        model.module.save_pretrained(root / name)
        model.tokenizer.save_pretrained(root / name)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in model.module.parameters():
                weight.data += 0.1 * weight.data.std() * torch.randn_like(weight)


def answered(target: Path, *overrides: str) -> Result:
    """Return the result of three samples that are decoded together."""
    words = [f"model={target}", "prompt=abcab", "max_new_tokens=16", "num_samples=3"]
    run = compose("generate", [*words, "batch_size=3", "logprobs=2", *overrides])
    generate(run.config, run)
    return run.result


def assert_same_answers(resident: Result, streamed: Result) -> None:
    """Compare tokens, what was accepted, and the logarithms of probabilities, bit for bit."""
    assert streamed.environment["offload_streamed_layers"] == 3
    assert streamed.rows == resident.rows
    accepted = [row["num_accepted_draft_tokens"] for row in resident.rows]
    assert sum(int(str(count)) for count in accepted) > 0
