"""How far mini-sequences reach in the same memory, how fast, and whether they change anything.

`python benchmarks/mst.py [--quick] [--out DIR] [--device cpu|cuda]` writes `DIR/result.json`. Plain
and checkpointing are unpatched transformers with sdpa, `use_cache=False` and its own loss, in the
same dtype with the same optimizer and with gradients allocated. Memory is live bytes over
parameters, gradients and optimizer state, counted operation by operation; on a GPU the allocator's
own figures stand beside them. Figures:

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
- `convergence_worst_difference`: largest difference of the loss of a step, plain against mst, in
  fine-tuning the model on novels with AdamW at 5e-5; at 1e-3 a third run, plain with the rows of a
  batch in another order, says what rounding alone does there.
"""

from __future__ import annotations

import argparse
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
    """Of fine-tuning."""
    tokens: int
    """Of a row of it."""


FULL = Case(2.0, 24.0, 30, 4096, (4096, 8192), 30, 5, 300, 256)
QUICK = Case(2.0, 24.0, 2, 1024, (4096,), 2, 3, 6, 48)


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
    measure_lengths(case, result)
    published(result)
    measure_planner(result)
    measure_speed(case, device, result)
    measure_convergence(case, device, result, options.out)
    if device.type == "cuda":
        measure_gpu(device, result)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/mst"))
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
