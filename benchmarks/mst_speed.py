"""Tokens a second against whole-layer checkpointing, and MLP forwards counted, for `mst.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from fivefold.result import Result
from mst_schemes import TILE, Apply, backward, checkpointed, model_of, mst, smollm2
from torch import nn

if TYPE_CHECKING:
    from mst import Case

SHORT = 512
"""Tokens of a sequence that one tile holds."""


def measure_speed(case: Case, device: torch.device, result: Result) -> None:
    """Time steps in turns; count MLP forwards in one step of each that is not timed."""
    worst, forwards = [], []
    for tokens in (SHORT, *case.lengths):
        times = interleaved(case, device, tokens)
        ratio = times["checkpointing"] / times["mst"]
        ratios = {name: times["checkpointing"] / seconds for name, seconds in times.items()}
        count = mlp_forwards(case.layers, device, tokens)
        for name, seconds in times.items():
            result.rows.append(
                {"what": "speed", "tokens": tokens, "scheme": name, "layers": case.layers,
                 "tokens_per_second": tokens / seconds, "over_checkpointing": ratios[name],
                 "mlp_forwards_per_token": count if name == "mst" else None}
            )  # fmt: skip
        print(f"{tokens} tokens: {ratios}, {count} forwards", flush=True)
        if tokens == SHORT:
            result.figures["short_throughput_over_checkpointing"] = ratio
        else:
            worst.append(ratio)
            forwards.append(count)
    result.figures["throughput_over_checkpointing"] = min(worst)
    result.figures["mlp_forwards_per_token"] = max(forwards)


def interleaved(case: Case, device: torch.device, tokens: int) -> dict[str, float]:
    """Return the median seconds of a step under each scheme, taken in turns."""
    schemes: dict[str, Apply] = {"checkpointing": checkpointed, "mst": mst()}
    if tokens > TILE:
        schemes["mst+block"] = mst(block=True)
    model = model_of(smollm2(case.layers), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    times: dict[str, list[float]] = {name: [] for name in schemes}
    for turn in range(case.repeats + 1):
        for name, apply in schemes.items():
            with apply(model):
                begin = time.perf_counter()
                backward(model, tokens)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = time.perf_counter() - begin
            if turn:  # the first step of each makes optimizer state and warms caches
                times[name].append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def mlp_forwards(layers: int, device: torch.device, tokens: int) -> float:
    """Return how often an MLP runs for a token in a step, by a counter on its first projection."""
    model = model_of(smollm2(layers), device)
    with counted_rows(model) as rows, mst()(model):
        backward(model, tokens)
    return sum(rows) / tokens / layers


@contextmanager
def counted_rows(model: nn.Module) -> Iterator[list[int]]:
    """Count the rows that enter the first projections of all MLPs."""
    rows: list[int] = []

    def count(_: nn.Module, given: tuple[Any, ...]) -> None:
        rows.append(given[0].numel() // given[0].shape[-1])

    hooks = [
        module.register_forward_pre_hook(count)
        for name, module in model.named_modules()
        if name.endswith("gate_proj")
    ]
    yield rows
    for hook in hooks:
        hook.remove()
