"""Our pass in one native call, beside the same pass compiled ahead of time by torch's inductor.

`python benchmarks/aot_inductor.py [--quick] [--out DIR]` writes `DIR/result.json`. The other side
is AOTInductor over transformers' own export with a static cache that is just long enough, compiled
for each number of tokens with each of `SETTINGS`; the fastest counts. Passes are taken in turns,
with a rest before each: OpenMP's threads spin on after a pass and would hold up the next one.
Figures:

- `aot_over_ours_{fp32,bf16}_{1,8}`: seconds of its pass over 1 or 8 tokens after 256, over ours;
- `aot_rows_bitwise_{fp32,bf16}`, `ours_rows_bitwise_…`: 1 where the first of 8 tokens of a text has
  bit for bit the logits that it has alone, else 0: what a greedy text that equals plain decoding
  in every dtype rests on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bounds import num_cores
from contestants import stock_module
from fivefold.result import Result
from fivefold_lm import FullAttention, LanguageModel, ModelConfig, TreeForward, load_model
from runtime import FORMATS, PREFIX, interleaved_seconds, one_pass, timed
from transformers import PreTrainedModel
from transformers.integrations.executorch import convert_and_export_with_cache

TOKENS = (1, 8)
REST = 0.05
"""Seconds."""
SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "frozen": {"freezing": True},
    "frozen, C++ templates": {
        "freezing": True,
        "max_autotune": True,
        "max_autotune_gemm_backends": "CPP,ATEN",
    },
}
"""Inductor's settings; frozen weights are packed once."""
WITHIN = {torch.float32: 1e-3, torch.bfloat16: 1.0}
"""How far its logits may be from transformers' own: else it computes something else."""


@dataclass(frozen=True)
class Compiled:
    """A pass over so many tokens, compiled.

    Args:
        program: returns logits [1, token, vocabulary]; keeps its own cache.
        settings: the name of what it was compiled with.
    """

    program: Callable[..., torch.Tensor]
    settings: str

    def after(self, prefix: int, count: int) -> Callable[[], torch.Tensor]:
        """Return a call of the pass over tokens that stand after so many others."""
        tokens, places = some_tokens(count), torch.arange(prefix, prefix + count)
        return lambda: self.program(input_ids=tokens, cache_position=places)


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    result = Result("benchmarks/aot_inductor")
    result.environment |= {"quick_case": options.quick, "model": options.model}
    result.environment["threads"] = num_cores()
    torch.set_num_threads(num_cores())
    for name in ("fp32", "bf16"):
        config = ModelConfig(name=options.model, **FORMATS[name])  # type: ignore[arg-type]
        measure(name, load_model(config, print), stock_module(config), options, result)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one of inductor's settings alone")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/aot_inductor"))
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--repeats", type=int, default=25, help="of each pass")
    return parser.parse_args()


def measure(
    name: str,
    model: LanguageModel,
    stock: PreTrainedModel,
    options: argparse.Namespace,
    result: Result,
) -> None:
    """Compile for 1 and 8 tokens with every setting; time each beside ours, and compare bits."""
    chosen = ("frozen",) if options.quick else tuple(SETTINGS)
    first: dict[str, list[torch.Tensor]] = {"ours": [], "aot": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in TOKENS:
            sides = [compiled(stock, count, setting, Path(folder)) for setting in chosen]
            calls: dict[int, Callable[[], object]] = {0: one_pass(model, count)}
            calls |= {at: one.after(PREFIX, count) for at, one in enumerate(sides, start=1)}
            rested = {at: after_a_rest(timed(call)) for at, call in calls.items()}
            times = interleaved_seconds(rested, options.repeats)
            for at, one in enumerate(sides, start=1):
                row: dict[str, object] = {"format": name, "tokens": count}
                row |= {"settings": one.settings, "aot_over_ours": times[at] / times[0]}
                result.rows.append(row)
                print(row, flush=True)
            best = min(range(1, len(calls)), key=lambda at: times[at])
            result.figures[f"aot_over_ours_{name}_{count}"] = times[best] / times[0]
            first["aot"].append(checked(sides[best - 1], stock, count))
            first["ours"].append(own_logits(model, count))
    for side, (alone, beside_others) in first.items():
        result.figures[f"{side}_rows_bitwise_{name}"] = int(torch.equal(alone, beside_others))


def after_a_rest(call: Callable[[], float]) -> Callable[[], float]:
    """Return a call that first waits until no thread spins."""

    def run() -> float:
        time.sleep(REST)
        return call()

    return run


def compiled(stock: PreTrainedModel, count: int, setting: str, folder: Path) -> Compiled:
    """Compile transformers' model for passes over so many tokens."""
    stock.generation_config.cache_implementation = "static"
    stock.generation_config.cache_config = {
        "batch_size": 1,
        "max_cache_len": PREFIX + max(TOKENS),
    }
    exported = convert_and_export_with_cache(stock, some_tokens(count), torch.arange(count))
    place = folder / f"{stock.dtype}-{count}-{list(SETTINGS).index(setting)}.pt2"
    torch._inductor.aoti_compile_and_package(
        exported, package_path=str(place), inductor_configs=SETTINGS[setting]
    )
    return Compiled(torch._inductor.aoti_load_package(str(place)), setting)


@torch.inference_mode()
def checked(one: Compiled, stock: PreTrainedModel, count: int) -> torch.Tensor:
    """Return the logits of a text's first token; end when they are not transformers' own."""
    logits = one.after(0, count)()
    expected = stock(some_tokens(count), use_cache=False).logits
    off = (logits - expected).abs().max().item()
    if off > WITHIN[stock.dtype]:
        sys.exit(f"the compiled pass over {count} tokens ({one.settings}) is off by {off}")
    return logits[:, 0].clone()


def own_logits(model: LanguageModel, count: int) -> torch.Tensor:
    """Return our logits of a text's first token."""
    cache = FullAttention().make_cache(model, 1, count)
    seen = torch.ones(1, count, count, dtype=torch.bool).tril()
    forward = TreeForward(model.module, FullAttention())
    logits = forward(cache, some_tokens(count), torch.arange(count)[None], seen).logits
    assert logits is not None
    return logits[:, 0].clone()


def some_tokens(count: int) -> torch.Tensor:
    """Return a text of so many tokens; the first is the same for all."""
    return torch.arange(1, count + 1)[None] * 97


if __name__ == "__main__":
    sys.exit(main())
