"""The longest sequence under one budget, scheme by scheme: figures `length_over_…` of `mst.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from fivefold.result import Result
from fivefold_mst_train.mst.planner import longest_sequence, predict_peak
from mst_schemes import (
    Apply,
    checkpointed,
    counted_peak,
    faithful,
    llama_slice,
    mst,
    plain,
    smollm2,
)
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from mst import Case

GIB = 2**30
TILE, CHUNK = 512, 256
"""Tokens of an MLP's tile and of a chunk of the head: small beside the budgets."""
COUNTS = {
    "smollm2": {"plain": "mst+block", "checkpointing": "mst+block", "faithful": "mst+block"},
    "llama slice": {"plain": "mst+block", "checkpointing": "mst+block", "faithful": "mst"},
}
"""Which scheme a figure is of: block tiling where the source's headline is asked for; per-tile
recompute alone against the source's own scheme on the slice."""


def measure_lengths(case: Case, result: Result) -> None:
    """Find every length, and confirm one of each shape."""
    shapes = {
        "smollm2": (smollm2(), int(case.budget * GIB), smollm2(case.confirm_layers)),
        "llama slice": (llama_slice(), int(case.slice_budget * GIB), None),
    }
    worst: dict[str, float] = {}
    for name, (config, budget, small) in shapes.items():
        found = {
            scheme: longest_sequence(config, apply, 1, torch.float32, budget, step=64)
            for scheme, apply in schemes().items()
        }
        ratios = {other: found[COUNTS[name][other]] / found[other] for other in COUNTS[name]}
        for scheme, tokens in found.items():
            over = {f"over_{other}": round(tokens / found[other], 2) for other in COUNTS[name]}
            counts = [other for other, ours in COUNTS[name].items() if ours == scheme]
            result.rows.append(
                {"what": "length", "shape": name, "budget_gib": budget / GIB, "scheme": scheme,
                 "tokens": tokens, **over, "counts": counts}
            )  # fmt: skip
            print(f"{name} {scheme}: {tokens} tokens {over}", flush=True)
        for other, ratio in ratios.items():
            worst[other] = min(worst.get(other, ratio), ratio)
        if small is not None:
            confirm(name, small, case.confirm_tokens, result)
    confirm("llama slice", narrow_slice(), case.confirm_tokens, result)
    for other, ratio in worst.items():
        result.figures[f"length_over_{other}"] = ratio


def schemes() -> dict[str, Apply]:
    """Return what is compared."""
    return {
        "plain": plain,
        "checkpointing": checkpointed,
        "faithful": faithful,
        "mst": mst(TILE, CHUNK),
        "mst+block": mst(TILE, CHUNK, block=True),
        "mst+offload": mst(TILE, CHUNK, offload=True),
    }


def narrow_slice() -> PretrainedConfig:
    """Return the slice at an eighth of its width: its ratios, in a memory that is at hand."""
    config = llama_slice()
    for name in ("hidden_size", "intermediate_size", "vocab_size"):
        setattr(config, name, getattr(config, name) // 8)
    config.num_attention_heads, config.num_key_value_heads = 4, 1
    return config


def confirm(name: str, config: PretrainedConfig, tokens: int, result: Result) -> None:
    """Compare the counts of a step without memory with those of one that really runs."""
    for scheme, apply in schemes().items():
        said = predict_peak(config, apply, 1, tokens, torch.float32).total
        real = counted_peak(config, apply, tokens)
        result.rows.append(
            {"what": "confirmed", "shape": name, "layers": config.num_hidden_layers,
             "hidden": config.hidden_size, "scheme": scheme, "tokens": tokens,
             "predicted_bytes": said, "counted_bytes": real}
        )  # fmt: skip
        print(f"{name} {scheme} at {tokens}: {said / real:.4f} of what is counted", flush=True)
