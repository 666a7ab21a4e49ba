"""How much a planned tree yields: against its prediction, against chains, by size, by rule.

`python benchmarks/trees.py [--quick] [--dtype FORMAT] [--keep] [--parts …] [--out DIR]` writes
`DIR/result.json` and its pictures; with `--keep` it goes on where a record stopped. No figure here
is a time: all are tokens a target pass, or shares. A cell is a draft, a temperature and a class of
prompts, of which the held-out half is decoded. Vectors are measured teacher-forced on plain answers
to these prompts. Figures (each the worst of its cells):

- `prediction_error`: |measured / F(T) - 1| of Sequoia's trees, F by depth and parent's rank;
  `prediction_error_plain`: F by one vector for all nodes;
  `prediction_error_on_decoded`: F of a vector that was measured on the very texts that the tree
  decoded: at a temperature these are other texts than plain answers, and this is without the noise
  of that;
  `prediction_error_from_open_half`, `prediction_error_plain_from_open_half`: likewise, with trees
  and F of a vector that was measured on the open half, so that what the halves differ in counts;
- `sequoia_over_best_chain`: tokens a pass of the tree of 64 nodes over those of the best chain of
  at most 63 drafted tokens; `sequoia_over_k_chains`: over the best k independent chains of as many
  nodes, k by prediction;
- `chain_ratio_off_prediction`: how far the first ratio is from the predicted one at 16 and 32;
- `worst_rule_lead`: the least lower end of a 95 % interval of the differences in acceptance
  without replacement - multi-step and multi-step - naive.

Rows hold every cell, and the growth with tree size of every method that is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fivefold.result import Result
from fivefold_lm import ModelConfig
from fivefold_lm import load_model as load
from records import keep
from trees_bench import FULL, QUICK, Trees
from trees_cells import measure_cells
from trees_growth import draw_growth, measure_growth
from trees_rules import draw_rules, measure_rules


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    given = {name: value for name in ("prompts", "tokens") if (value := getattr(options, name))}
    case = replace(case, **given)
    result = Result("benchmarks/trees")
    model = ModelConfig(name=options.model, dtype=options.dtype)
    result.environment |= {"quick_case": options.quick, "model": model.name, **vars(case)}
    result.environment["dtype"] = model.dtype
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Trees(load(model, print), case, result, options.batch)
    if options.keep:
        keep(result, options.out / "result.json", lambda row: False)
    result.status = "partial"  # until all is done
    for part in options.parts:
        PARTS[part](bench, options.out)
        result.write(options.out)
    if set(options.parts) == set(PARTS):
        result.status = "ok"
        result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {'null' if value is None else f'{value:.3f}'}")
    return 0


def growth(bench: Trees, out: Path) -> None:
    """Measure and draw growth with the size of the tree."""
    measure_growth(bench)
    draw_growth(bench.result, out / "growth.svg")


def rules(bench: Trees, out: Path) -> None:
    """Measure and draw the acceptance of the rules."""
    measure_rules(bench)
    draw_rules(bench.result, out / "rules.svg")


PARTS: dict[str, Callable[[Trees, Path], None]] = {
    "cells": measure_cells,
    "growth": growth,
    "rules": rules,
}
"""What can be measured apart; a record is whole when one run has seen to all of them."""


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/trees"))
    parser.add_argument("--keep", action="store_true", help="what DIR holds is not done again")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--dtype", default="float32", help="as in `model.dtype=FORMAT`")
    parser.add_argument("--prompts", type=int, help="of each half; default: the case's")
    parser.add_argument("--tokens", type=int, help="of each text; default: the case's")
    parser.add_argument("--batch", type=int, default=8, help="prompts decoded together")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
