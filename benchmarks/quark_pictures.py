"""The pictures of `benchmarks/quark.py`, drawn from its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from fivefold.result import Result

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_LINES = (
    ("queries_random", "random, every draw verified", "s-"),
    ("queries_random_racing", "random, dropped at the first mistake", "^-"),
    ("queries_quark_with_verification", "Quark, verification too", "o--"),
    ("queries_quark", "Quark, model queries", "o-"),
    ("queries_known", "the best plan, knowing all accuracies", ":"),
)


def draw(result: Result, folder: Path) -> None:
    """Draw what was measured: scaling, and the noise curve."""
    scaling = [row for row in result.rows if "omega" in row]
    noise = [row for row in result.rows if "depolarizing_2q" in row]
    if scaling:
        draw_scaling(scaling, result.figures, folder / "scaling.svg")
    if noise:
        draw_noise(noise, folder / "noise.svg")


def draw_scaling(rows: list[dict[str, Any]], figures: dict[str, Any], path: Path) -> None:
    """Draw queries to the optimum over the register's size."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for key, name, style in _LINES:
        exponent = figures.get(key.replace("queries", "slope"))
        label = name if exponent is None else f"{name}: slope {exponent:.2f}"
        axes.loglog([row["omega"] for row in rows], [row[key] for row in rows], style, label=label)
    axes.set_xlabel("weight settings, Omega")
    axes.set_ylabel("model evaluations to the optimum, mean")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw_noise(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the probability of the best weight over the two-qubit error."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for name in dict.fromkeys(row["task"] for row in rows):
        kept = [row for row in rows if row["task"] == name]
        errors = [max(row["depolarizing_2q"], 1e-5) for row in kept]
        axes.semilogx(errors, [row["p_best"] for row in kept], "o-", label=name)
    axes.axhline(0.25, color="grey", ls="--", lw=0.8)
    axes.set_xlabel("depolarising error of a two-qubit gate (leftmost: none; dashed: uniform)")
    axes.set_ylabel("P(best weight), k = 1")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
