"""The picture of a result: which weights a shot shows, and why just so many iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .engine.coherent import CoherentTest
from .engine.formula import distribution, success
from .engine.optimizer import OptimizationResult
from .engine.problem import Training, tabulate

_MOST_BARS = 32


def plot_result(
    path: Path,
    problem: Training,
    test: CoherentTest,
    k: int,
    result: OptimizationResult,
    epsilon: float,
) -> None:
    """Draw P(w) after k iterations, and the success curve sin^2((2k + 1) theta).

    Both are the master formula's, from the table of accuracies: a picture of what happened, drawn
    after the search, which never saw the table.

    Args:
        path: the PNG.
        problem: what was searched.
        test: the coherent test.
        k: its iterations.
        result: the search's.
        epsilon: accuracy below the best that still counts as near-optimal.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    table = tabulate(problem)
    accuracies = table.accuracies
    score = test.score(accuracies)
    shares = distribution(score, k)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    _draw_weights(left, problem, table.codes, accuracies, shares, epsilon)
    left.set_title(f"{problem.name}: one shot of {test.label}, k = {k}", fontsize=9)
    _draw_success(right, float(score.mean()), k)
    figure.suptitle(
        f"found {problem.register.text(result.weights)[-40:]}, "
        f"training accuracy {result.train_accuracy:.3f}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_weights(
    axes: Any,
    problem: Training,
    codes: np.ndarray,
    accuracies: np.ndarray,
    shares: np.ndarray,
    epsilon: float,
) -> None:
    """Draw the likeliest weights as bars, those near the best in another colour."""
    order = np.argsort(-shares, kind="stable")[:_MOST_BARS]
    near = accuracies[order] >= accuracies.max() - epsilon - 1e-12
    colours = np.where(near, "#d95f02", "#7570b3")
    names = [problem.register.text(row) for row in problem.register.bits(codes[order])]
    axes.bar(range(len(order)), shares[order], color=list(colours))
    axes.axhline(1 / len(codes), color="grey", lw=0.8, ls="--")
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=6)
    axes.set_ylabel("P(w)  (orange: near-optimal, dashed: uniform)")


def _draw_success(axes: Any, mean: float, k: int) -> None:

    theta = float(np.arcsin(np.sqrt(min(mean, 1.0))))
    last = max(2 * k + 2, 6)
    smooth = np.linspace(0, last, 400)
    axes.plot(smooth, np.sin((2 * smooth + 1) * theta) ** 2, color="grey", lw=0.8)
    every = np.arange(last + 1)
    axes.plot(every, [float(success(mean, int(i))) for i in every], "o", ms=4)
    axes.plot([k], [float(success(mean, k))], "o", ms=11, mfc="none", mec="#d95f02", mew=2)
    axes.set_xlabel(f"iterations k (theta = {theta:.4f}; circle: chosen)")
    axes.set_ylabel("probability that the flag is up, sin²((2k+1)θ)")
    axes.set_ylim(0, 1.05)
