"""How near a GPU's passes come to its bandwidth, and what verifying n tokens costs there.

`python benchmarks/runtime_gpu.py [--quick] [--out DIR]` measures everything it prints in one run,
in bfloat16, and writes `DIR/result.json`. Without CUDA it says so and ends with status 1; `--tiny`
runs the same code over tiny models on the CPU, where the figures mean nothing. Figures, for random
weights of the shapes of the default model (`smollm2`) and of Llama 3.1 8B (`8b`):

- `gpu_plain_share_of_bandwidth_{smollm2,8b}`: time of reading the weights of a pass once at the
  bandwidth of summing two gigabytes inside a CUDA graph in the same run, over a plain pass of one
  token behind 256, the host included;
- `gpu_t{n}_over_t1_{smollm2,8b}`: a pass over n tokens, 2 to 256, over one of one token;
- `gpu_ratio_to_transformers_{smollm2,8b}`: tokens/s of plain decoding over transformers' `generate`
  with a static cache, compiled as it does by itself, in turns: the median of the ratios;
- `gpu_attention_8k_share_of_bandwidth`: keys and values of 8,192 slots (32 heads, 8 of keys, of 128
  numbers) at that bandwidth over the time of tree attention, batches of 1 and 8, 1 and 8 nodes, the
  worst; `gpu_attention_8k_over_sdpa`: torch's time for the same over ours, likewise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, ours, static_stock
from fivefold.result import Result
from fivefold_kernels.decoder.gpu import triton_operations
from fivefold_lm import LanguageModel
from fivefold_lm.kernels import choose_gpu_kernels, speed_up, speedup_of
from fivefold_lm.static import StaticDecoder
from fivefold_lm.testing import Replays, run_statically, tiny_model, tiny_tokenizer
from runtime import interleaved_seconds, one_pass, timed
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig

CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROMPT = 128  # tokens
LARGEST = 1 << 31
"""Bytes that the bandwidth is measured on: far beyond a GPU's caches, and a launch is nothing."""
EIGHT_B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "bos_token_id": None,
    "eos_token_id": None,
}
SMOLLM2: dict[str, Any] = EIGHT_B | {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SLOTS, HEADS, KV_HEADS, DIM = 8192, 32, 8, 128  # of attention measured alone


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    repeats: int
    answers: int
    tokens: int


FULL = Case(repeats=31, answers=5, tokens=256)
QUICK = Case(repeats=9, answers=3, tokens=96)
TINY = Case(repeats=1, answers=1, tokens=4)


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device here, so there is nothing to measure; --tiny tries the code alone")
    case = TINY if options.tiny else QUICK if options.quick else FULL
    result = Result("benchmarks/runtime_gpu")
    result.environment |= {"quick_case": options.quick, "tiny": options.tiny, **vars(case)}
    result.environment["gpu"] = None if options.tiny else torch.cuda.get_device_name()
    rate = 1.0 if options.tiny else read_rate()
    result.environment["bandwidth"] = f"{rate / 1e9:.0f} GB/s"
    if not options.tiny:
        measure_attention(rate, result)
    for name, shape in (("smollm2", SMOLLM2), ("8b", EIGHT_B)):
        model = tiny() if options.tiny else random_model(shape)
        measure_curve(name, model, rate, case, result)
        measure_transformers(name, model, case, result)
        del model  # both at once may not fit
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, under ten minutes")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: no figures")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/runtime_gpu"))
    return parser.parse_args()


def random_model(shape: dict[str, Any]) -> LanguageModel:
    """Return a model with random weights on the GPU, which never ends a text."""
    auto: Any = AutoModelForCausalLM
    with torch.device("cuda"):
        module = auto.from_config(LlamaConfig(**shape), dtype=torch.bfloat16)
    module = module.eval().requires_grad_(False)
    kernels = choose_gpu_kernels("triton", module.device)
    assert kernels is not None
    speed_up(module, kernels, print)
    return LanguageModel.wrap(module, tiny_tokenizer(32), "random")


def tiny() -> LanguageModel:
    """Return a tiny model on the CPU, run as on a GPU but for graphs and kernels."""
    model = tiny_model(eos_token_id=None, max_position_embeddings=1024)
    run_statically(model.module, Replays())
    return model


def weight_bytes(model: LanguageModel) -> int:
    """Return the bytes that a pass reads; without passes in static shapes none are measured."""
    speedup = speedup_of(model.module)
    if speedup is None or not isinstance(speedup.decoder, StaticDecoder):
        sys.exit("Triton's kernels do not run this model here; see `fivefold kernels`")
    weights = speedup.decoder.weights
    return weights.layer_bytes + weights.head_bytes


def read_rate() -> float:
    """Return bytes a second of summing buffers, as a CUDA graph runs it."""
    buffers = [torch.ones(LARGEST // 4, device="cuda") for _ in range(2)]
    return LARGEST / graph_seconds([buffer.sum for buffer in buffers])


def measure_curve(name: str, model: LanguageModel, rate: float, case: Case, result: Result) -> None:
    """Time passes over 1 to 256 tokens, in turns."""
    calls = {nodes: finished(one_pass(model, nodes), model.device) for nodes in CURVE}
    times = interleaved_seconds({key: timed(call) for key, call in calls.items()}, case.repeats)
    share = weight_bytes(model) / rate / times[1]
    result.figures[f"gpu_plain_share_of_bandwidth_{name}"] = share
    for nodes in CURVE:
        row: dict[str, object] = {"what": "pass", "model": name, "tokens": nodes}
        row |= {"ms": 1000 * times[nodes], "over_one": times[nodes] / times[1]}
        result.rows.append(row)
        print(row, flush=True)
        if nodes > 1:
            result.figures[f"gpu_t{nodes}_over_t1_{name}"] = times[nodes] / times[1]


def measure_attention(rate: float, result: Result) -> None:
    """Time tree attention over a long cache, torch's beside it, as a CUDA graph runs them."""
    shares, ratios = [], []
    for batch in (1, 8):
        shape = (batch, KV_HEADS, SLOTS, DIM)
        copies = max(2, 8 // batch)  # more than a GPU's cache holds
        caches = [
            [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
            for _ in range(copies)
        ]
        bound = sum(each.nbytes for each in caches[0]) / rate
        for nodes in (1, 8):
            query = torch.randn(batch, nodes, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
            seen = torch.ones(batch, nodes, nodes, dtype=torch.bool, device="cuda").tril()
            lengths = torch.full((batch,), SLOTS - nodes, device="cuda")
            attend = triton_operations().attention(lengths, seen, SLOTS)
            ours = graph_seconds([partial(attend, query, k, v, DIM**-0.5) for k, v in caches])
            rows = query.transpose(1, 2)
            causal = torch.ones(nodes, SLOTS, dtype=torch.bool, device="cuda").tril(SLOTS - nodes)
            mask = None if nodes == 1 else causal
            theirs = graph_seconds([partial(sdpa, rows, k, v, mask) for k, v in caches])
            shares.append(bound / ours)
            ratios.append(theirs / ours)
            row: dict[str, object] = {"what": "attention", "batch": batch, "nodes": nodes}
            row |= {"us": 1e6 * ours, "share": shares[-1], "over_sdpa": ratios[-1]}
            result.rows.append(row)
            print(row, flush=True)
    result.figures["gpu_attention_8k_share_of_bandwidth"] = min(shares)
    result.figures["gpu_attention_8k_over_sdpa"] = min(ratios)


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend by torch's own kernels."""
    return functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)


def graph_seconds(calls: Sequence[Callable[[], object]], repeats: int = 9) -> float:
    """Return the median seconds of a call when a CUDA graph runs all of them in a row."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1000 / len(calls))
    return statistics.median(times[1:])


def finished(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a call that comes back when the GPU is done with it."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def measure_transformers(name: str, model: LanguageModel, case: Case, result: Result) -> None:
    """Decode plainly with ours and with transformers, over the same weights, in turns."""
    prompt = (torch.arange(PROMPT) * 89 % model.vocab_size).tolist()
    sides: list[Contestant] = [ours(model, "none"), static_stock(model.module)]
    for side in sides:
        side.answer(prompt, case.tokens)  # compiles, and records
    ratios = []
    for _ in range(case.answers):
        answers = [side.answer(prompt, case.tokens) for side in sides]
        speeds = [len(answer.tokens) / answer.seconds for answer in answers]
        ratios.append(speeds[0] / speeds[1])
        row: dict[str, object] = {"what": "decoding", "model": name, "ratio": ratios[-1]}
        row |= {
            f"tokens_per_second_{side.name}": speed
            for side, speed in zip(sides, speeds, strict=True)
        }
        result.rows.append(row)
        print(row, flush=True)
    result.figures[f"gpu_ratio_to_transformers_{name}"] = statistics.median(ratios)


if __name__ == "__main__":
    sys.exit(main())
