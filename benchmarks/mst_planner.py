"""The planner against counted peaks, and beside the source's table: `planner_worst_error`."""

from __future__ import annotations

from typing import Any

import torch
from fivefold.result import Result
from fivefold_mst_train import MstConfig
from fivefold_mst_train.mst.planner import longest_sequence, predict_peak
from fivefold_mst_train.mst.schemes import for_device, schemes, statics
from fivefold_mst_train.mst.shapes import PUBLISHED, shape_config
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
from transformers import Gemma2Config, MistralConfig, PretrainedConfig, Qwen2Config

GIB = 2**30
DEVICE = 80 * GIB
USABLE = int(77.5 * GIB)
"""What the specification's own predictions take of a card of 80 GiB."""
PAPER = {
    "meta-llama/Meta-Llama-3-8B": (5_000, 14_000, 60_000),
    "meta-llama/Llama-2-7b-hf": (7_000, 45_000, 84_000),
    "mistralai/Mistral-7B-v0.3": (5_000, 42_000, 70_000),
    "Qwen/Qwen2-7B": (4_000, 13_000, 74_000),
    "google/gemma-2-9b": (1_500, 5_000, 36_000),
}
"""The source's longest sequences: vanilla, recompute, MsT (A100-80G; as recalled in the
specification, of which its README confirms 60K and 84K)."""


def cases() -> list[tuple[str, PretrainedConfig, Apply, int, int, torch.dtype]]:
    """Return (name, config, method, batch, tokens, dtype): nothing in the planner was fitted."""
    wide: dict[str, Any] = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 768,
    }
    gemma = Gemma2Config(
        vocab_size=4096,
        hidden_size=256,
        head_dim=64,
        num_hidden_layers=4,
        **wide,
    )
    gemma._attn_implementation = "eager"  # what transformers takes for it: scores of all pairs
    mistral = MistralConfig(
        vocab_size=4096, hidden_size=256, num_hidden_layers=6, sliding_window=512, **wide
    )
    mistral._attn_implementation = "sdpa"  # makes masks of windows
    qwen = Qwen2Config(vocab_size=8192, hidden_size=256, num_hidden_layers=5, **wide)
    small = smollm2(4)
    half = llama_slice(4)
    for name in ("hidden_size", "intermediate_size", "vocab_size"):
        setattr(half, name, getattr(half, name) // 16)
    half.num_attention_heads, half.num_key_value_heads = 4, 1
    f32 = torch.float32
    return [
        ("smollm2, 4 layers, plain", small, plain, 1, 512, f32),
        ("smollm2, 4 layers, checkpointing", small, checkpointed, 1, 1024, f32),
        ("smollm2, 4 layers, faithful", small, faithful, 1, 1536, f32),
        ("smollm2, 4 layers, mst", small, mst(256, 128), 1, 2048, f32),
        ("smollm2, 4 layers, mst, 3 rows", small, mst(256, 128), 3, 600, f32),
        ("smollm2, 4 layers, block", small, mst(256, 128, block=True), 1, 2048, f32),
        ("smollm2, 4 layers, offload", small, mst(256, 128, offload=True), 1, 2048, f32),
        ("smollm2, 16 layers, mst, embedding larger", smollm2(16), mst(512, 512), 1, 2048, f32),
        ("gemma 2, narrow, mst", gemma, mst(128, 64), 1, 1024, f32),
        ("mistral, narrow, windows, plain", mistral, plain, 1, 1024, f32),
        ("mistral, narrow, windows, mst", mistral, mst(128, 64), 2, 800, f32),
        ("qwen 2, narrow, mst", qwen, mst(128, 64), 2, 900, f32),
        ("llama slice, narrow, block", half, mst(128, 64, block=True), 1, 1500, f32),
    ]


def measure_planner(result: Result) -> None:
    """Compare predicted and counted peaks."""
    errors = []
    for name, config, apply, batch, tokens, dtype in cases():
        said = predict_peak(config, apply, batch, tokens, dtype).total
        real = counted_peak(config, apply, tokens, batch)
        errors.append(abs(said / real - 1))
        result.rows.append(
            {"what": "planner", "case": name, "predicted_bytes": said, "counted_bytes": real,
             "error": said / real - 1}
        )  # fmt: skip
        print(f"planner: {name}: {said / real - 1:+.2%}", flush=True)
    result.figures["planner_worst_error"] = max(errors)


def published(result: Result) -> None:
    """Print the planner's longest sequences for the source's five models beside its own."""
    for name in PUBLISHED:
        config = shape_config(name)
        row: dict[str, object] = {"what": "published", "model": name}
        said = ("paper_vanilla", "paper_recompute", "paper_mst")
        row |= dict(zip(said, PAPER[name], strict=True))
        for words, in_backward in (("8P", False), ("6P", True)):
            fixed = statics(config, torch.bfloat16, "adamw", in_backward).total
            settings = for_device(MstConfig(optimizer_in_backward=in_backward), DEVICE)
            for scheme in schemes(settings):
                room = USABLE - fixed
                found = 0
                if room > 0:
                    found = longest_sequence(config, scheme.apply, 1, torch.bfloat16, room)
                row[f"{scheme.name}_{words}"] = found
        result.rows.append(row)
        print(f"published: {row}", flush=True)
