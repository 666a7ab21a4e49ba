"""A picture of which chunk sat in which stage when."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from .rank import Stay

_log = logging.getLogger(__name__)


def draw_timeline(stays: Sequence[Stay], path: Path, *, is_simulated: bool) -> None:
    """Draw one epoch: a row a rank, a box a chunk, forward and backward in two colours.

    Args:
        stays: of one epoch.
        path: the PNG.
        is_simulated: whether the clock is that of virtual ranks.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        _log.warning("no timeline is drawn: matplotlib is not installed")
        return
    if not stays:
        return
    ranks = 1 + max(stay.rank for stay in stays)
    origin = min(stay.begin for stay in stays)
    figure = Figure(figsize=(10, 1.2 + 0.5 * ranks), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for stay in stays:
        colour = "#d95f02" if stay.backward else "#1b9e77"
        begin, width = stay.begin - origin, stay.end - stay.begin
        axes.barh(stay.rank, width, left=begin, color=colour, edgecolor="white", linewidth=0.5)
        axes.text(
            begin + width / 2, stay.rank, str(stay.chunk), ha="center", va="center", fontsize=6
        )
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.invert_yaxis()
    clock = "simulated clock" if is_simulated else "seconds"
    axes.set_xlabel(f"time in the last epoch, {clock} (s)")
    axes.set_title("chunks in stages: forward green, backward orange", fontsize=10)
    figure.savefig(path, dpi=150)
