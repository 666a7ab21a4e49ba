"""Lines of `benchmarks/trees.py`, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def draw(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    path: Path,
    *,
    log: bool = False,
) -> None:
    """Draw lines over one another."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    if log:
        axes.set_xscale("log", base=2)
    axes.set(xlabel=across, ylabel=up)
    axes.legend()
    FigureCanvasSVG(figure).print_figure(path)
