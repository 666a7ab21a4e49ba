"""Pictures of a bench: tokens/s beside plain decoding, and how many drafts stand in a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_ratios(ratios: Mapping[str, float], title: str, path: Path) -> None:
    """Draw tokens/s of each method as a multiple of plain decoding.

    Args:
        ratios: label of a method -> tokens/s over plain decoding's.
        title: what was measured.
        path: PNG file to write.
    """
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(ratios), list(ratios.values()), color="#3b6ea5")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="tokens/s, plain decoding = 1", title=title)
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


def draw_acceptance(histograms: Mapping[str, Sequence[int]], title: str, path: Path) -> None:
    """Draw the share of steps in which 0, 1, 2, ... drafted tokens stood.

    Args:
        histograms: label of a method -> steps by number of accepted drafted tokens.
        title: what was measured.
        path: PNG file to write.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(histograms), 1)
    for place, (label, steps) in enumerate(histograms.items()):
        total = max(sum(steps), 1)
        shift = (place - (len(histograms) - 1) / 2) * width
        positions = [accepted + shift for accepted in range(len(steps))]
        axes.bar(positions, [count / total for count in steps], width, label=label)
    axes.set_xticks(range(max((len(steps) for steps in histograms.values()), default=1)))
    axes.set(xlabel="drafted tokens accepted in a step", ylabel="share of steps", title=title)
    axes.legend()
    FigureCanvasAgg(figure).print_figure(path, dpi=130)
