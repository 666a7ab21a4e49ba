"""What all ranks of a run must have alike, whatever the method: graph, network, options."""

from __future__ import annotations

from .graph import GraphData
from .plan import LayerPlan
from .training import Session

_OPTIONS = ("epochs", "lr", "optimizer", "weight_decay", "clip_norm", "seed", "eval_every")


def agreed_facts(plan: LayerPlan, data: GraphData, session: Session) -> dict[str, object]:
    """Return what decides the numbers, by the names that a user knows.

    Args:
        plan: the network; one without a recipe is described by its modules.
        data: the graph.
        session: the run.
    """
    options = {name: getattr(session.options, name) for name in _OPTIONS}
    recipe = {f"model.{name}": value for name, value in plan.recipe.items()}
    return {
        "data": data.digest,
        **(recipe or {"model": str(plan)}),
        "runtime.dtype": str(session.dtype),
        **options,
    }
