"""How far mini-sequences reach in the same memory, how fast, and whether they change anything.

`python benchmarks/mst.py [--quick] [--out DIR] [--device cpu|cuda]` writes `DIR/result.json`, after
each part; with `--part` one part is measured and printed, and nothing is written but with `--keep`:
then it is put into the record that is there. Plain and checkpointing are
unpatched transformers with sdpa, `use_cache=False` and its own loss, in the same dtype with the
same optimizer and with gradients allocated. Memory is live bytes over parameters, gradients and
optimizer state, counted operation by operation; on a GPU the allocator's own figures stand beside
them. Figures:

- `length_over_plain`, `length_over_checkpointing`, `length_over_faithful`: the longest sequence
  under one budget over that of plain training, of whole-layer checkpointing, of the source's own
  scheme (split without recompute by tile); the worse of two shapes: SmolLM2-135M, and two layers of
  Llama 3 8B. Rows hold every scheme and shape, block tiling on and off; which one counts for a
  shape is `counts` of its row. Lengths are found by running the step without memory and one of each
  shape is confirmed by really running it;
- `throughput_over_checkpointing`: tokens/s of a step (forward, backward, AdamW) over whole-layer
  checkpointing, tiles of 1,024 tokens, sequences of 4,096 tokens and more, in turns, the worst;
- `short_throughput_over_checkpointing`: the same where one tile holds everything;
- `mlp_forwards_per_token`: counted in those steps;
- `planner_worst_error`: largest relative difference of the predicted from the counted peak;
- on a GPU also the figures of `mst_gpu.py`;
- `convergence_worst_difference`: largest difference of the loss of a step, plain against mst, in
  fine-tuning the model on novels with AdamW at 5e-5, one thread;
  `convergence_worst_difference_exact`: mst against plain with the cross entropy of its float32
  scores in float64. Rows hold plain and mst at 1e-3, for fewer steps, and a third run there, plain
  with the rows of a batch in another order: what rounding alone does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from bounds import num_cores
from fivefold.result import Result
from mst_convergence import measure_convergence
from mst_gpu import measure_gpu
from mst_lengths import measure_lengths
from mst_planner import measure_planner, published
from mst_speed import measure_speed
from records import keep

KINDS = {
    "lengths": ("length", "confirmed"),
    "published": ("published",),
    "planner": ("planner",),
    "speed": ("speed",),
    "convergence": ("convergence", "difference"),
    "gpu": ("gpu length", "gpu speed"),
}
"""What the rows of each part are about; the last is there on a GPU alone."""


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    budget: float
    """GiB over parameters, gradients and optimizer state, on the SmolLM2 shape."""
    slice_budget: float
    """The same on the slice of Llama 3 8B."""
    confirm_layers: int
    """Layers of the models that are really run to confirm a length."""
    confirm_tokens: int
    lengths: tuple[int, ...]
    """Tokens of the sequences whose speed is measured."""
    layers: int
    """Layers of the SmolLM2 shape whose speed is measured."""
    repeats: int
    steps: int
    """Of fine-tuning at the small rate."""
    large_steps: int
    """At the large one."""
    tokens: int
    """Of a row of it."""


FULL = Case(2.0, 24.0, 6, 1024, (4096, 8192), 4, 3, 300, 60, 32)
QUICK = Case(2.0, 24.0, 2, 1024, (4096,), 2, 3, 6, 4, 32)


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/mst")
    device = torch.device(options.device)
    result.environment |= {"quick_case": options.quick, "device": str(device), **vars(case)}
    if device.type == "cpu":
        result.environment["threads"] = num_cores()
        torch.set_num_threads(num_cores())
    is_kept = options.keep or not options.part
    parts = parts_of(case, device, result, options.out if is_kept else None)
    chosen = [options.part] if options.part else list(parts)
    if options.part and options.part not in parts:
        raise SystemExit("the part gpu needs --device cuda")
    if options.keep:
        anew = {kind for part in chosen for kind in KINDS[part]} - {"convergence"}
        keep(result, options.out / "result.json", lambda row: row["what"] in anew)
    for part in chosen:
        began = time.perf_counter()
        parts[part]()
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        if is_kept:
            measured = {row["what"] for row in result.rows}
            is_whole = not any(measured.isdisjoint(KINDS[name]) for name in parts)
            result.status = "ok" if is_whole else "partial"
            options.out.mkdir(parents=True, exist_ok=True)
            result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


def parts_of(
    case: Case, device: torch.device, result: Result, out: Path | None
) -> dict[str, Callable[[], None]]:
    """Return what is measured, in order."""
    parts: dict[str, Callable[[], None]] = {
        "lengths": lambda: measure_lengths(case, result),
        "published": lambda: published(result),
        "planner": lambda: measure_planner(result),
        "speed": lambda: measure_speed(case, device, result),
        "convergence": lambda: measure_convergence(case, device, result, out),
    }
    if device.type == "cuda":
        parts["gpu"] = lambda: measure_gpu(device, result)
    return parts


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/mst"))
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    parser.add_argument("--part", choices=list(KINDS), help="measure and print this alone")
    parser.add_argument("--keep", action="store_true", help="what DIR holds of other parts")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
