"""How the yield of every installed method grows with its tree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from fivefold import UserError
from fivefold.result import Result
from fivefold_speculative.choosing import choose
from trees_bench import Trees
from trees_plots import draw

METHODS: dict[str, Callable[[int], Mapping[str, Any]]] = {
    "sequoia": lambda n: {"nodes": n, "levels": min(n, 16), "replan": 0.0},
    "specexec": lambda n: {"budget": n},
    "specinfer": lambda n: {"widths": specinfer_widths(n)},
    "chain": lambda n: {"length": min(n - 1, 63)},
}
"""Settings of each method for a tree of n nodes."""


def measure_growth(bench: Trees) -> None:
    """Record tokens a pass by size, of every method that is installed and takes the size."""
    name, temperature = bench.case.classes[0], bench.case.temperatures[0]
    prompts = bench.prompts(name, held_out=True)[: bench.case.growth_prompts]
    for method, nodes in product(METHODS, bench.case.growth):
        if bench.has(growth=method, nodes=nodes):
            continue
        row: dict[str, object] = {"growth": method, "nodes": nodes, "prompts": name}
        try:
            chosen = choose("drafting", method, METHODS[method](nodes))
            engine = bench.engine(chosen.build, bench.sampler(temperature))
            found = bench.run(engine, prompts)
        except UserError as error:
            bench.result.rows.append(row | {"left_out": str(error)})
            continue
        row |= {"tokens_a_pass": found.mean, "standard_error": found.error}
        bench.result.rows.append(row)
        print(row)


def specinfer_widths(nodes: int) -> list[int]:
    """Return expansion widths of about so many nodes: two wide levels, then single children."""
    wide = min(max(1, round(math.sqrt(nodes / 4))), nodes - 1)
    depth = max(1, round((nodes - 1) / wide))
    return [wide, *[1] * (depth - 1)]


def draw_growth(result: Result, path: Path) -> None:
    """Draw tokens a pass over the size of the tree."""
    rows: list[dict[str, Any]] = list(result.rows)
    grown = [row for row in rows if "growth" in row and "tokens_a_pass" in row]
    lines = {
        method: [(r["nodes"], r["tokens_a_pass"]) for r in grown if r["growth"] == method]
        for method in dict.fromkeys(row["growth"] for row in grown)
    }
    draw(lines, "nodes of the tree", "tokens a target pass", path, log=True)
