"""Training from Python: a plan, a graph, a method's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from fivefold import UserError
from fivefold.description import load
from jaxtyping import Float
from torch import Tensor

from ..builtin import fivefold_training
from ..config import PlainConfig, RuntimeConfig, TrainOptions
from .checkpoint import CheckpointFolder
from .edges import graph_edges
from .fleet import rank_device
from .graph import GraphData
from .loop import Curve, fit
from .metrics import Scores
from .plan import LayerPlan, check_fits
from .training import GraphTraining, Session


@dataclass
class Trained:
    """A trained plan and how it came about."""

    plan: LayerPlan
    """The plan that was given, with the weights of the best validation epoch (at rank 0)."""
    curve: Curve
    """Loss, scores, seconds and bytes, epoch by epoch."""
    facts: dict[str, float | int | str | None]
    """The method's own figures: `bytes_formula`, `peak_memory_bytes`, …"""

    @property
    def scores(self) -> Scores:
        """Scores at the best validation epoch."""
        return self.curve.best

    @torch.no_grad()
    def predict(self, data: GraphData) -> Float[Tensor, "node class"]:
        """Return the exact scores of all vertices of a graph."""
        return predict(self.plan, data)


def train(
    plan: LayerPlan,
    data: GraphData,
    settings: object | None = None,
    options: TrainOptions | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    checkpoint: str | Path | None = None,
) -> Trained:
    """Train a plan on one whole graph.

    Args:
        plan: the network; its weights are changed.
        data: the graph.
        settings: of the method, whose class chooses it: `PlainConfig`, `GraphParallelConfig`,
            `GNNPipeConfig`; left out, one device.
        options: epochs, learning rate, seed.
        device: as `runtime.device`.
        dtype: number format of weights and activations.
        checkpoint: folder for checkpoints; none are written without.

    Raises:
        UserError: what the method or the graph refuses.
    """
    settings, options = settings or PlainConfig(), options or TrainOptions()
    _refuse_others(plan, data, options, dtype)
    check_fits(plan, data.num_features, data.num_classes)
    session = make_session(options, device, dtype)
    method = build_method(settings, plan, data.checked(), session)
    keeper = CheckpointFolder(Path(checkpoint), session.rank) if checkpoint else None
    if keeper is not None and session.rank == 0:
        keeper.describe(description_of(plan, data, method, session), anew=True)
    try:
        outcome = fit(method, data, options, keeper=keeper)
        facts = method.facts()
    finally:
        method.close()
    if outcome.weights is not None:
        plan.load_state_dict(outcome.weights)
    return Trained(plan, outcome.curve, facts)


def build_method(
    settings: object, plan: LayerPlan, data: GraphData, session: Session
) -> GraphTraining:
    """Return the method whose settings are of this class.

    Raises:
        UserError: no method of this package has such settings.
    """
    for method in fivefold_training():
        if type(settings) is method.config:
            built: GraphTraining = load(method.build)(settings, plan, data, session)
            return built
    names = ", ".join(f"{method.config.__name__}()" for method in fivefold_training())
    given = f"the class {settings.__name__}" if isinstance(settings, type) else _kind(settings)
    raise UserError(f"{given} is no training method's settings", remedy=f"give one of {names}")


def make_session(options: TrainOptions, device: str | torch.device, dtype: torch.dtype) -> Session:
    """Return what every method is given: this process's place among torchrun's."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return Session(
        options=options,
        device=rank_device(RuntimeConfig(str(device)).device, local),
        dtype=dtype,
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
    )


def description_of(
    plan: LayerPlan, data: GraphData, method: GraphTraining, session: Session
) -> dict[str, object]:
    """Return what a checkpoint says of what its weights belong to, and a resumed run must share."""
    return {
        "graph": data.name,
        "graph_digest": data.digest,
        "model": plan.recipe,
        "num_parameters": plan.num_parameters(),
        "num_features": data.num_features,
        "num_classes": data.num_classes,
        "is_multilabel": data.is_multilabel,
        "runtime.dtype": str(session.dtype).removeprefix("torch."),
        "seed": session.options.seed,
        "optimizer": session.options.optimizer,
        **method.identity(),
    }


def _refuse_others(plan: object, data: object, options: object, dtype: torch.dtype) -> None:
    """Refuse what is easily given instead: bare modules, PyG's graphs, a dictionary."""
    if not isinstance(plan, LayerPlan):
        raise UserError(
            f"{_kind(plan)} is no plan of layers",
            setting="plan",
            remedy="give plan_of(model, num_features=…, num_classes=…)",
        )
    if not isinstance(data, GraphData):
        raise UserError(
            f"{_kind(data)} is no graph that is known here",
            setting="data",
            remedy='give load_graph(path="graph.pt"), after torch.save(data.to_dict(), "graph.pt")',
        )
    if not isinstance(options, TrainOptions):
        remedy = "give TrainOptions(epochs=100)"
        raise UserError(f"{_kind(options)} is no TrainOptions", setting="options", remedy=remedy)
    if dtype not in (torch.float32, torch.float64):
        remedy = "give torch.float32 or torch.float64"
        raise UserError("unknown number format", setting="dtype", value=str(dtype), remedy=remedy)


def _kind(given: object) -> str:
    return f"a {type(given).__name__}"


@torch.no_grad()
def predict(
    plan: LayerPlan, data: GraphData, device: torch.device | None = None
) -> Float[Tensor, "node class"]:
    """Return a plan's exact scores of all vertices, without dropout.

    Raises:
        UserError: a graph of other columns than the plan takes.
    """
    check_fits(plan, data.num_features)
    dtype = next(plan.parameters()).dtype
    where = device or next(plan.parameters()).device
    plan = plan.to(where).eval()
    edges = graph_edges(data, plan.norm, plan.loops, dtype).to(where)
    scores: Tensor = plan(data.x.to(where, dtype), edges)
    return scores.cpu()
