"""Which rule accepts most: without replacement, multi-step, naive, at one node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from fivefold.result import Result
from fivefold_speculative import DraftKind, DraftLoader, Proposal, Rule, measure_acceptance
from trees_bench import DRAWS, Trees
from trees_plots import draw

RULES: dict[str, tuple[Proposal, Rule]] = {
    "without_replacement": (Proposal.WITHOUT_REPLACEMENT, Rule.AUTO),
    "multi_step": (Proposal.SAMPLED, Rule.AUTO),
    "naive": (Proposal.SAMPLED, Rule.LOOKUP),
}
"""How children come about, and what judges them, best first."""
CHILDREN = 4
"""Children of the one node at which rules are compared."""
TRUE_95 = 1.96


def measure_rules(bench: Trees) -> None:
    """Record the acceptance of each rule at one node, text by text on the same texts."""
    name = bench.case.classes[0]
    prompts = bench.prompts(name, held_out=True)
    for kind, temperature in product(bench.case.kinds, bench.case.rule_temperatures):
        if bench.has(rule="naive", draft=kind, temperature=temperature):
            continue
        sampler = bench.sampler(temperature)
        draft = DraftLoader(bench.model)("shipped", DraftKind(kind))
        texts, starts = bench.texts(sampler, prompts)
        share: dict[str, list[float]] = {}
        for rule, (proposal, judge) in RULES.items():
            share[rule] = [
                sum(
                    measure_acceptance(
                        bench.model,
                        draft,
                        sampler,
                        proposal,
                        CHILDREN,
                        [text],
                        starts=[start],
                        rule=judge,
                        draws=DRAWS,
                    ).probs
                )
                for text, start in zip(texts, starts, strict=True)
                if len(text) > start + 1
            ]
        cell = {"draft": kind, "temperature": temperature, "children": CHILDREN}
        for rule, shares in share.items():
            mean, half = interval(shares)
            row = {"rule": rule, **cell, "acceptance": mean, "half_interval": half}
            bench.result.rows.append(row)
            print(row)
        for better, worse in pairwise(RULES):
            leads = [a - b for a, b in zip(share[better], share[worse], strict=True)]
            mean, half = interval(leads)
            lead = {"lead": f"{better} - {worse}", **cell, "mean": mean, "half_interval": half}
            bench.result.rows.append(lead)
    found: list[dict[str, Any]] = [row for row in bench.result.rows if "lead" in row]
    bench.result.figures["worst_rule_lead"] = min(
        row["mean"] - row["half_interval"] for row in found
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half its 95 % interval; texts are independent."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    spread_ = sum((x - mean) ** 2 for x in values) / (len(values) - 1)
    return mean, TRUE_95 * math.sqrt(spread_ / len(values))


def draw_rules(result: Result, path: Path) -> None:
    """Draw the acceptance of each rule over temperature, for the first draft."""
    rows: list[dict[str, Any]] = list(result.rows)
    judged = [row for row in rows if "rule" in row]
    kind = judged[0]["draft"]
    lines = {
        rule: [
            (r["temperature"], r["acceptance"])
            for r in judged
            if r["rule"] == rule and r["draft"] == kind
        ]
        for rule in RULES
    }
    up = f"share of nodes with a child that stands ({CHILDREN} children)"
    draw(lines, "temperature", up, path)
