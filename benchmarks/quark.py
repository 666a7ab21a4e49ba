"""What Quark saves, what it costs, how that scales, beside search that needs no quantum computer.

`python benchmarks/quark.py [--quick] [--out DIR] [--parts …]` measures everything it prints and
writes `DIR/result.json` and its pictures; with `--keep`, beside what DIR holds of other parts.
Figures:

- `measurements_random_over_quark_TASK` (also `…_median`, `…_p95`): draws of random search without
  replacement over Quark's weight measurements, both up to the first near-optimal weight, which a
  judge outside names;
- `stopped_random_over_quark_TASK` (also `…_median`, `…_p95`): the same where each stops by its own
  rule at confidence 0.95; `success_quark_TASK` and `success_random_TASK`: how often each then
  holds a near-optimal weight;
- `queries_…`, `verification_…`: the mean model queries and classical evaluations of both sides;
- `slope_quark`, `slope_random`, `slope_random_racing`: of log queries over log Omega, on the four
  largest registers; `slope_quark_with_verification` counts verification too; `slope_known` is that
  of the best single plan of one who knows all accuracies;
- `tensor_over_compiled`: run time of the compiled circuit over the tensor engine's, building and
  transpiling apart (`compiled_build_seconds`); `peak_gib`: of the tensor engine at
  Omega N = 2^26, the whole process;
- `noise_…`: probability of the best weight of the warm-ups at each two-qubit error.

The planner is blind: an oracle answers its measurements and counts; the judge alone sees the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from fivefold.result import Result
from quark_blind import measure_blind
from quark_noise import measure_noise
from quark_pictures import draw
from quark_scaling import measure_scaling
from quark_speed import measure_memory, measure_speed
from records import keep


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    seeds: int
    """Seeds of each task, of Quark and of random search."""
    scaling_seeds: int
    scaling_bits: tuple[int, ...]
    """Weight bits of the edge task with distractors."""
    memory_bits: int
    """Weight bits of the memory case, on 512 samples."""
    noise_shots: int
    noise_errors: tuple[float, ...]
    """Depolarising errors of two-qubit gates."""


FULL = Case(200, 100, (10, 12, 14, 16, 18), 17, 1000, (0.0, 1e-4, 1e-3, 5e-3, 2e-2))
QUICK = Case(100, 20, (10, 12, 14, 16), 17, 200, (0.0, 1e-3, 2e-2))
PARTS = ("blind", "scaling", "speed", "memory", "noise")


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/quark")
    result.environment |= {"quick_case": options.quick, **vars(case)}
    parts = {
        "blind": lambda: measure_blind(case.seeds, result),
        "scaling": lambda: measure_scaling(case.scaling_bits, case.scaling_seeds, result),
        "speed": lambda: measure_speed(result),
        "memory": lambda: measure_memory(case.memory_bits, result),
        "noise": lambda: measure_noise(case.noise_errors, case.noise_shots, result),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    if options.keep:
        keep(result, options.out / "result.json", lambda row: row["part"] in options.parts)
    for name in options.parts:
        before = len(result.rows)
        parts[name]()
        for row in result.rows[before:]:
            row["part"] = name
        result.write(options.out)
    draw(result, options.out)
    for name, value in result.figures.items():
        print(f"{name} {value:.4g}" if value is not None else f"{name} -")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/quark"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="what DIR holds of other parts")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
