"""The pictures of `benchmarks/gnnpipe.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_rates(
    curve: Sequence[tuple[float, float, float]], plain: float, path: Path, *, real: bool
) -> None:
    """Draw seconds an epoch over the link's rate, both methods, one process beside them."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    rates = [rate for rate, _, _ in curve]
    axes.loglog(rates, [graph for _, graph, _ in curve], "o-", label="graph parallel, 2 processes")
    axes.loglog(rates, [pipe for _, _, pipe in curve], "s-", label="GNNPipe, 2 processes")
    axes.axhline(plain, color="gray", linestyle=":", label="one process")
    axes.set_xlabel("link, Mbit/s each way" + ("" if real else " (simulated)"))
    axes.set_ylabel("seconds an epoch")
    axes.legend()
    figure.savefig(path, dpi=150)


def draw_accuracy(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw validation accuracy over epochs: a panel a model and depth, a line a run.

    Args:
        runs: the rows of all runs.
        path: the picture.
    """
    cells = list(dict.fromkeys((run["model"], run["layers"]) for run in runs))
    figure = _figure(5 * len(cells), 4)
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    styles = {"plain": ("full graph", "gray"), "gnnpipe": ("GNNPipe", "#1b9e77")}
    for axes, cell in zip(panels, cells, strict=True):
        for run in runs:
            if (run["model"], run["layers"]) != cell:
                continue
            name, colour = styles[run["method"]]
            label = name if run["seed"] == 0 else None
            axes.plot(run["epochs"], run["vals"], color=colour, linewidth=0.8, label=label)
        axes.set_title(f"{cell[0]}, {cell[1]} layers")
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy")
        axes.legend()
    figure.savefig(path, dpi=150)


def draw_growth(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw seconds and memory of an epoch over vertices, edges and layers."""
    figure = _figure(12, 4)
    for axes, axis in zip(figure.subplots(1, 3), ("nodes", "edges", "layers"), strict=True):
        some = [row for row in rows if row["axis"] == axis]
        axes.plot([row[axis] for row in some], [row["seconds"] for row in some], "o-")
        axes.set_xlabel(axis)
        axes.set_ylabel("seconds an epoch")
        right = axes.twinx()
        memory = [row["peak_memory_bytes"] / 1e6 for row in some]
        right.plot([row[axis] for row in some], memory, "s:", color="gray")
        right.set_ylabel("MB, fullest rank (dotted)")
    figure.savefig(path, dpi=150)
