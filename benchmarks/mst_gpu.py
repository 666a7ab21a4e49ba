"""Longest sequence and speed on a GPU, beside Liger's head and torch's; also a part of `mst.py`.

Each scheme has a process of its own, which may take `MEMORY` of the device, so that lengths stay
where attention is not all that is timed. A length fits when two steps of bfloat16 with AdamW pass,
the second with optimizer state; it is found to a step of 128 tokens or a 32nd of it, and ratios
take what ours holds over the least length found that the other does not hold.
`python benchmarks/mst_gpu.py [--out DIR]` measures this alone. Figures:

- `gpu_length_over_plain`, `gpu_length_over_checkpointing`, `gpu_length_over_liger`: the longest
  sequence of mini-sequences, the best of its rows, over that of plain training, of whole-layer
  checkpointing, and of checkpointing with Liger's kernels (null where they are not installed);
- `gpu_throughput_over_checkpointing`, `gpu_throughput_over_liger`: tokens/s at `LENGTH` tokens of
  mini-sequences by themselves (`mst`), in turns with the others.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from fivefold.result import Result
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train._words import HeadImpl
from fivefold_mst_train.config import HeadConfig
from mst_schemes import Apply, backward, checkpointed, model_of, mst, plain, smollm2
from torch import nn
from transformers.models.llama import modeling_llama

MEMORY = 4 << 30
STEP = 128
FIRST, LONGEST = 1024, 1 << 20
LENGTH = 16_384
"""Tokens of a sequence whose speed is measured, in all memory."""
TURNS = 5
CONTEXT = 1 << 30
"""Bytes that a process takes beside its share."""


def schemes() -> dict[str, Apply]:
    """Return the schemes to compare on a GPU; others' kernels where they are installed."""
    found: dict[str, Apply] = {
        "plain": plain,
        "checkpointing": checkpointed,
        "mst": apply_mst,
        "mst+block": lambda model: apply_mst(model, block=True),
        "mst+block, small": mst(2048, 512, block=True),
    }
    if hasattr(nn, "LinearCrossEntropyOptions"):  # since torch 2.13
        found["mst, torch head"] = _with_head(HeadImpl.TORCH)
    if find_spec("liger_kernel"):
        found["liger+checkpointing"] = _liger
        found["mst, liger head"] = _with_head(HeadImpl.LIGER)
    if find_spec("cut_cross_entropy"):
        found["mst, cce head"] = _with_head(HeadImpl.CCE)
    return found


def _with_head(impl: HeadImpl) -> Apply:
    config = MstConfig(head=HeadConfig(impl=impl))
    return lambda model: apply_mst(model, config)


@contextmanager
def _liger(model: nn.Module) -> Iterator[None]:
    """Put all of Liger's kernels on a model, checkpoint its layers; free others of the rotary."""
    rotary = modeling_llama.apply_rotary_pos_emb
    import_module("liger_kernel.transformers").apply_liger_kernel_to_llama(model=model)
    try:
        with checkpointed(model):
            yield
    finally:
        modeling_llama.apply_rotary_pos_emb = rotary


def measure_gpu(
    device: torch.device, result: Result, keep: Callable[[], None] = lambda: None
) -> None:
    """Find the longest sequence of each scheme by bisection, then their speeds in turns.

    Args:
        device: a GPU.
        result: takes rows and figures.
        keep: called when the lengths are there.
    """
    properties = torch.cuda.get_device_properties(device)
    result.environment |= {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "gpu_memory_taken": MEMORY,
        "cuda": torch.version.cuda,
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }
    longest: dict[str, int] = {}
    too_long: dict[str, int] = {}
    names = list(schemes())
    at_once = max(1, int(torch.cuda.mem_get_info(device)[0] // (MEMORY + CONTEXT)))
    for first in range(0, len(names), at_once):  # side by side: nothing is timed
        children = {name: _started(name) for name in names[first : first + at_once]}
        for name, child in children.items():
            longest[name], too_long[name] = _length_of(name, child, result)
    ours = max(length for name, length in longest.items() if name.startswith("mst"))
    for name, scheme in (
        ("plain", "plain"),
        ("checkpointing", "checkpointing"),
        ("liger", "liger+checkpointing"),
    ):
        other = too_long.get(scheme)
        result.figures[f"gpu_length_over_{name}"] = ours / other if other else None
    keep()
    seconds = speeds([name for name in longest if longest[name]])
    for name, value in seconds.items():
        row = {"what": "gpu speed", "scheme": name, "tokens": LENGTH}
        result.rows.append(row | {"tokens_per_second": LENGTH / value})
        print(f"gpu {name}: {LENGTH / value:.0f} tokens/s", flush=True)
    for name, scheme in (("checkpointing", "checkpointing"), ("liger", "liger+checkpointing")):
        both = scheme in seconds and "mst" in seconds
        ratio = seconds[scheme] / seconds["mst"] if both else None
        result.figures[f"gpu_throughput_over_{name}"] = ratio


def _started(name: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--scheme", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _length_of(name: str, child: subprocess.Popen[str], result: Result) -> tuple[int, int]:
    """Wait for a scheme's process; return the lengths that it holds and does not hold, or zeros."""
    said, complaint = child.communicate()
    row: dict[str, Any] = {"what": "gpu length", "scheme": name}
    if child.returncode:
        row["why_not"] = (complaint.strip().splitlines() or ["no reason given"])[-1]
    else:
        row |= json.loads(said.splitlines()[-1])
    result.rows.append(row)
    print(row, flush=True)
    return int(row.get("longest", 0)), int(row.get("too_long", 0))


def search(name: str) -> dict[str, int]:
    """Find the longest sequence that fits, to a sixteenth or a step, and what it takes."""
    device = torch.device("cuda")
    share = MEMORY / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    model = model_of(smollm2(), device, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    found = {"longest": 0, "too_long": 0, "allocated_bytes": 0, "reserved_bytes": 0}
    with schemes()[name](model):
        low, high = 0, FIRST
        while high <= LONGEST and _fits(model, optimizer, high, found):
            low, high = high, 2 * high
        while high - low > max(STEP, low // 32):
            middle = (low + high) // 2 // STEP * STEP
            fits = _fits(model, optimizer, middle, found)
            low, high = (middle, high) if fits else (low, middle)
    return found | {"too_long": high}


def _fits(
    model: nn.Module, optimizer: torch.optim.Optimizer, tokens: int, found: dict[str, int]
) -> bool:
    """Train two steps; note what the second took if both passed."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        _step(model, optimizer, tokens)
        torch.cuda.reset_peak_memory_stats()
        _step(model, optimizer, tokens)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        optimizer.zero_grad(set_to_none=False)
        return False
    found |= {
        "longest": tokens,
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }
    return True


def speeds(names: Sequence[str]) -> dict[str, float]:
    """Return the median seconds of a step of each scheme, on models of their own, in turns."""
    device, known = torch.device("cuda"), schemes()
    models = {name: model_of(smollm2(), device, torch.bfloat16) for name in names}
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-5) for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(TURNS + 2):
        for name, model in models.items():
            with known[name](model):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                _step(model, optimizers[name], LENGTH)
                torch.cuda.synchronize()
                if turn >= 2:  # before, kernels are compiled and state is made
                    times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: int) -> None:
    backward(model, tokens)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def main() -> int:
    """Measure all schemes, or one, as this script starts itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/mst_gpu"))
    parser.add_argument("--scheme", help="find the longest sequence of this one and print it")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here, so there is nothing to measure")
    if options.scheme:
        print(json.dumps(search(options.scheme)))
        return 0
    result = Result("benchmarks/mst_gpu")
    options.out.mkdir(parents=True, exist_ok=True)
    measure_gpu(torch.device("cuda"), result, lambda: result.write(options.out))
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
