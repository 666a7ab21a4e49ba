"""How much of the link to a GPU is used where weights are streamed from host memory.

`python benchmarks/offload_gpu.py [--layers N] [--out DIR]` makes a random model of the shape of
Llama 3.1 8B with fewer layers, streams all of them in bfloat16, and writes `DIR/result.json`;
without CUDA it says so and ends with status 1. Figures:

- `gpu_stream_share_of_link`: bytes that plain decoding streams over its wall time, over the rate of
  copies of a layer's bytes from pinned memory measured before and after it, the better;
- `gpu_streamed_t{n}_over_t1`: a pass that verifies n tokens over one of one token, both streamed;
- `gpu_streamed_over_resident`: the same pass over one token, all layers on the device: what
  streaming costs there;
- `gpu_streamed_equal_texts`: the share of greedy texts that are those of the resident model.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contestants import ours
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, load_model
from fivefold_lm.offload.streamed import Offload, offload_of
from fivefold_lm.testing import tiny_tokenizer
from runtime import interleaved_seconds, one_pass, timed
from runtime_gpu import EIGHT_B, finished
from transformers import AutoModelForCausalLM, LlamaConfig

CURVE = (1, 8, 32, 128)
PROMPTS = [[5, 900, 31], [77, 4, 12_345, 8], [100, 200]]
TOKENS, REPEATS = 16, 5
SPARE = 64 << 20
"""Bytes over what the two buffers of the ring need."""


def main() -> int:
    """Measure, print, write; 1 when a text differs."""
    options = read_options()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here, so there is nothing to measure")
    result = Result("benchmarks/offload_gpu")
    result.environment |= {"gpu": torch.cuda.get_device_name(), "layers": options.layers}
    folder = Path(tempfile.mkdtemp())
    try:
        save_model(folder, options.layers)
        measure(folder, result)
    finally:
        shutil.rmtree(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0 if result.figures["gpu_streamed_equal_texts"] == 1.0 else 1


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8, help="of the model; the 8B one has 32")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/offload_gpu"))
    return parser.parse_args()


def save_model(folder: Path, layers: int) -> None:
    """Write the random model and a tokenizer."""
    config = LlamaConfig(**EIGHT_B | {"num_hidden_layers": layers, "tie_word_embeddings": True})
    auto: Any = AutoModelForCausalLM
    with torch.device("cuda"):
        module = auto.from_config(config, dtype=torch.bfloat16)
    module.save_pretrained(folder)
    tiny_tokenizer(32).save_pretrained(folder)


def measure(folder: Path, result: Result) -> None:
    """Stream the model, then hold it on the device, and compare."""
    config = ModelConfig(name=str(folder), dtype="bfloat16", device="cuda", kernels="torch")
    resident = load_model(config, print)
    layers: Any = resident.module.base_model.layers
    layer = sum(weight.nbytes for weight in layers[0].parameters())
    held = sum(weight.nbytes for weight in resident.module.parameters()) - len(layers) * layer
    memory = f"{held + 2 * layer + SPARE}B"
    streamed = load_model(replace(config, offload="host", memory=memory), print)
    offload = offload_of(streamed.module)
    assert offload is not None
    result.environment |= offload.environment()
    figures = result.figures
    link = link_rate(layer)
    rate, texts = decode(streamed, offload)
    link = max(link, link_rate(layer))
    result.environment["link_bytes_per_second"] = link
    figures["gpu_stream_share_of_link"] = rate / link
    calls = {n: timed(finished(one_pass(streamed, n), streamed.device)) for n in CURVE}
    calls[0] = timed(finished(one_pass(resident, 1), resident.device))
    times = interleaved_seconds(calls, REPEATS)
    for n in CURVE:
        result.rows.append({"what": "streamed pass", "tokens": n, "ms": 1000 * times[n]})
        if n > 1:
            figures[f"gpu_streamed_t{n}_over_t1"] = times[n] / times[1]
    result.rows.append({"what": "resident pass", "tokens": 1, "ms": 1000 * times[0]})
    figures["gpu_streamed_over_resident"] = times[1] / times[0]
    _, wanted = decode(resident, None)
    figures["gpu_streamed_equal_texts"] = statistics.mean(
        got == right for got, right in zip(texts, wanted, strict=True)
    )


def decode(model: LanguageModel, offload: Offload | None) -> tuple[float, Sequence[object]]:
    """Decode all prompts plainly; return bytes streamed a second, and the texts."""
    plain = ours(model, "none")
    for prompt in PROMPTS:  # loads the device's code for products of these shapes
        plain.answer(prompt, 2)
    torch.cuda.synchronize()
    before, begin = 0 if offload is None else offload.done().nbytes, time.perf_counter()
    answers = [plain.answer(prompt, TOKENS) for prompt in PROMPTS]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    for answer in answers:
        print({"seconds": answer.seconds, **answer.stages}, flush=True)
    rate = 0.0 if offload is None else (offload.done().nbytes - before) / seconds
    return rate, [answer.tokens for answer in answers]


def link_rate(nbytes: int, copies: int = 16) -> float:
    """Return bytes a second of copies from pinned memory, one after the other."""
    source = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    place = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    place.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(copies):
        place.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return copies * nbytes / (time.perf_counter() - begin)


if __name__ == "__main__":
    sys.exit(main())
