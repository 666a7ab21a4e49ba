"""The curve of a run as a picture: loss, scores, and staleness where something is stale."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .loop import Curve


def draw_curve(curve: Curve, path: Path, title: str) -> None:
    """Write a PNG.

    Args:
        curve: the run.
        path: the file.
        title: its heading.
    """
    is_stale = any(point.staleness for point in curve.points)
    figure = Figure(figsize=(7, 6 if is_stale else 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3 if is_stale else 2, 1, sharex=True)
    figure.suptitle(title)
    epochs = [point.epoch for point in curve.points]
    mark = "." if len(epochs) == 1 else ""
    losses = [point.loss for point in curve.points]
    axes[0].plot(epochs, losses, color="C3", marker=mark, label="train loss")
    axes[0].set_ylabel("loss")
    for name, colour in (("train", "C0"), ("val", "C1"), ("test", "C2")):
        known = [(p.epoch, getattr(p, name)) for p in curve.points if getattr(p, name) is not None]
        if known:
            axes[1].plot(*zip(*known, strict=True), color=colour, marker=".", label=name)
    if curve.best_epoch:
        axes[1].axvline(curve.best_epoch, color="0.6", linestyle=":", label="best")
    axes[1].set_ylabel("score")
    if is_stale:
        stale = [(p.epoch, p.staleness) for p in curve.points if p.staleness]
        for layer in range(len(stale[0][1])):
            axes[2].plot([e for e, _ in stale], [s[layer] for _, s in stale], marker=".")
        axes[2].set_ylabel("staleness by layer")
    axes[-1].set_xlabel("epoch")
    for panel in axes[:2]:
        panel.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=130)
