"""What a user may set in the graph tasks, and the tasks themselves. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fivefold import Task, UserError

from ._words import TASK
from .config import TrainOptions
from .groups import DATA, MODEL, RUNTIME
from .pipe.config import PlanConfig


@dataclass
class GraphConfig(TrainOptions):
    """Train a graph network on one whole graph."""

    checkpoint: str = ""
    """Folder of the checkpoint; empty: `checkpoint` in the run folder."""
    resume: str = ""
    """Checkpoint folder of an earlier run to go on from, to the same numbers."""
    plots: bool = True
    """Draw the curves (and a pipeline's timeline) into the run folder."""


@dataclass
class PredictConfig:
    """Write a trained network's predictions for a graph."""

    checkpoint: str = ""
    """Folder that `fivefold graph` left."""
    weights: str = "best"
    """`best` (by validation) or `last`."""
    output: str = ""
    """The npz file; empty: `predictions.npz` in the run folder."""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            remedy = "give the folder that `fivefold graph` left"
            raise UserError("no checkpoint is named", setting="checkpoint", remedy=remedy)
        if self.weights not in ("best", "last"):
            raise UserError("no such weights", setting="weights", remedy="give best or last")


TASKS: list[Task] = [
    Task(
        name="graph",
        config=GraphConfig,
        run="fivefold_gnnpipe.fronts:graph",
        summary="train a graph network on one whole graph, on one device or several",
        hooks={"training": "plain"},
        groups=(MODEL, DATA, RUNTIME),
        provides=frozenset({TASK}),
        check="fivefold_gnnpipe.fronts:check",
    ),
    Task(
        name="graph plan",
        config=PlanConfig,
        run="fivefold_gnnpipe.fronts:graph_plan",
        summary="what one device, graph parallelism and each pipeline would send, take and hold",
        hooks={"training": "gnnpipe"},
        groups=(MODEL, DATA, RUNTIME),
        provides=frozenset({TASK}),
    ),
    Task(
        name="graph predict",
        config=PredictConfig,
        run="fivefold_gnnpipe.fronts:graph_predict",
        summary="write a trained network's predictions for a graph",
        groups=(DATA, RUNTIME),
        provides=frozenset({TASK}),
    ),
]
"""What `fivefold_tasks` returns for this package."""
