"""Draw `pictures/quark.svg`: what a shot of edge3 shows, iteration by iteration.

Everything in it is computed here, from the master formula and the 512 images of the edge task.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from fivefold_quark import Replicas
from fivefold_quark.engine.formula import distribution, success
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge3

matplotlib.use("svg")
from matplotlib import pyplot as plt

PICTURE = Path(__file__).parent / "pictures" / "quark.svg"
COPIES, ITERATIONS = 32, (0, 1, 2)


def main() -> None:
    """Draw the picture."""
    plt.rcParams["svg.hashsalt"] = "quark"
    problem = edge3()
    table = tabulate(problem)
    score = Replicas(COPIES).score(table.accuracies)
    names = [problem.register.text(row) for row in problem.register.bits(table.codes)]
    figure, axes = plt.subplots(1, 4, figsize=(12, 3))
    axes[0].bar(names, table.accuracies, color="#7570b3")
    axes[0].set_title("accuracy of each weight setting", fontsize=9)
    for place, k in zip(axes[1:], ITERATIONS, strict=True):
        flag = float(success(float(score.mean()), k))
        shares = distribution(score, k)
        colours = ["#d95f02" if acc == 1.0 else "#7570b3" for acc in table.accuracies]
        place.bar(names, shares, color=colours)
        place.axhline(1 / 8, color="grey", lw=0.8, ls="--")
        place.set_title(f"P(w) after k = {k}: flag up {flag:.2f}", fontsize=9)
    for place in axes:
        place.set_ylim(0, 1.02)
        place.tick_params(axis="x", rotation=90, labelsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
