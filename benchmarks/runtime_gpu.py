"""How near a GPU's passes come to its bandwidth, and what verifying n tokens costs there.

`python benchmarks/runtime_gpu.py [--quick] [--out DIR]` measures everything it prints in one run,
in bfloat16, and writes `DIR/result.json`. Without CUDA it says so and ends with status 1; `--tiny`
runs the same code over tiny models on the CPU, where the figures mean nothing. Figures, for the
default model (`smollm2`) and a random one of the shape of Llama 3.1 8B (`8b`):

- `gpu_plain_share_of_bandwidth_{smollm2,8b}`: time of reading the weights of a pass once at the
  bandwidth measured in the same run, over a plain pass of one token behind 256, the host included;
- `gpu_t{n}_over_t1_{smollm2,8b}`: a pass over n tokens, 2 to 256, over one of one token;
- `gpu_ratio_to_transformers_{smollm2,8b}`: tokens/s of plain decoding over transformers' `generate`
  with a static cache, compiled as it does by itself, in turns: the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, ours, static_stock
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, load_model
from fivefold_lm.kernels import choose_gpu_kernels, speed_up, speedup_of
from fivefold_lm.loading import DEFAULT
from fivefold_lm.static import StaticDecoder
from fivefold_lm.testing import Replays, run_statically, tiny_model, tiny_tokenizer
from runtime import interleaved_seconds, one_pass, timed
from transformers import AutoModelForCausalLM, LlamaConfig

CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROMPT = 128  # tokens
LARGEST = 1 << 31  # bytes that the bandwidth is measured on: far beyond a GPU's caches
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
    makers: dict[str, Callable[[], LanguageModel]] = {"smollm2": smollm2, "8b": eight_b}
    for name, make in makers.items():
        model = tiny() if options.tiny else make()
        measure_curve(name, model, case, result)
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


def smollm2() -> LanguageModel:
    """Return the default model on the GPU."""
    config = ModelConfig(name=DEFAULT, dtype="bfloat16", device="cuda", kernels="triton")
    return load_model(config, print)


def eight_b() -> LanguageModel:
    """Return a random model of the shape of Llama 3.1 8B on the GPU, which never ends a text."""
    auto: Any = AutoModelForCausalLM
    with torch.device("cuda"):
        module = auto.from_config(LlamaConfig(**EIGHT_B), dtype=torch.bfloat16)
    module = module.eval().requires_grad_(False)
    kernels = choose_gpu_kernels("triton", module.device)
    assert kernels is not None
    speed_up(module, kernels, print)
    return LanguageModel.wrap(module, tiny_tokenizer(32), "8b")


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


def measure_curve(name: str, model: LanguageModel, case: Case, result: Result) -> None:
    """Time passes over 1 to 256 tokens and a read of as many bytes, in turns."""
    size = weight_bytes(model)
    buffer = torch.ones(min(size, LARGEST) // 4, device=model.device)
    calls = {nodes: finished(one_pass(model, nodes), model.device) for nodes in CURVE}
    calls[0] = finished(buffer.sum, model.device)
    times = interleaved_seconds({key: timed(call) for key, call in calls.items()}, case.repeats)
    bound = times[0] * size / buffer.nbytes
    result.environment[f"bandwidth_{name}"] = f"{size / bound / 1e9:.0f} GB/s"
    result.figures[f"gpu_plain_share_of_bandwidth_{name}"] = bound / times[1]
    for nodes in CURVE:
        row: dict[str, object] = {"what": "pass", "model": name, "tokens": nodes}
        row |= {"ms": 1000 * times[nodes], "over_one": times[nodes] / times[1]}
        result.rows.append(row)
        print(row, flush=True)
        if nodes > 1:
            result.figures[f"gpu_t{nodes}_over_t1_{name}"] = times[nodes] / times[1]


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
