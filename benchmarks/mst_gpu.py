"""Longest sequence and speed on a GPU, beside Liger's head and torch's: rows of `mst.py`.

Each length is tried in a process of its own: three steps of bfloat16 with AdamW must pass. The
allocator's figures are taken after two steps, when optimizer state is there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from fivefold.result import Result
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train._words import HeadImpl
from fivefold_mst_train.config import HeadConfig
from mst_schemes import Apply, backward, checkpointed, mst, plain, smollm2

STEP = 1024
STEPS, TIMED = 3, 10
LIMIT = 1 << 20


def heads() -> dict[str, Apply]:
    """Return the schemes to compare on a GPU; Liger's where it is installed."""
    found: dict[str, Apply] = {
        "plain": plain,
        "checkpointing": checkpointed,
        "mst": mst(4096, 4096),
        "mst+block": mst(4096, 4096, block=True),
        "torch head": _with_head(HeadImpl.TORCH),
    }
    if importlib.util.find_spec("liger_kernel"):
        found["liger head"] = _with_head(HeadImpl.LIGER)
    if importlib.util.find_spec("cut_cross_entropy"):
        found["cce head"] = _with_head(HeadImpl.CCE)
    return found


def _with_head(impl: HeadImpl) -> Apply:
    config = MstConfig(head=HeadConfig(impl=impl))
    return lambda model: apply_mst(model, config)


def measure_gpu(device: torch.device, result: Result) -> None:
    """Find the longest sequence of each scheme by bisection, and its speed at one length."""
    properties = torch.cuda.get_device_properties(device)
    result.environment |= {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }
    for name in heads():
        low, high = 0, STEP
        while high <= LIMIT and attempt(name, high):
            low, high = high, 2 * high
        while high - low > STEP:
            middle = (low + high) // 2 // STEP * STEP
            low, high = (middle, high) if attempt(name, middle) else (low, middle)
        row = {"what": "gpu", "scheme": name, "longest": low}
        result.rows.append(row | (attempt(name, min(low, 8192)) or {} if low else {}))
        print(f"gpu {name}: {low} tokens", flush=True)


def attempt(name: str, tokens: int) -> dict[str, float] | None:
    """Train three steps in a fresh process; return what it measured, or None when it failed."""
    command = [sys.executable, str(Path(__file__).resolve()), name, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(name: str, tokens: int) -> None:
    """Train, and print the figures of the allocator and the clock."""
    from mst_schemes import model_of

    device = torch.device("cuda")
    model = model_of(smollm2(), device, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    times = []
    with heads()[name](model):
        for step in range(STEPS if tokens > 8192 else TIMED):
            if step == 2:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            backward(model, tokens)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    print(
        json.dumps({
            "tokens": tokens,
            "tokens_per_second": tokens / statistics.median(times[1:]),
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
        })
    )  # fmt: skip


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]))
