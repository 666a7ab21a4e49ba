"""What this package offers to the host: its methods and its tasks. Light: no torch."""

from __future__ import annotations

from fivefold import Method, Task, hookimpl

from ._words import TASK, Exactness
from .config import GraphParallelConfig, PlainConfig
from .pipe.config import GNNPipeConfig
from .task_configs import TASKS

_NEEDS = frozenset({TASK})


@hookimpl
def fivefold_training() -> list[Method]:
    """Describe the ways to train on a whole graph."""
    plain = Method(
        name="plain",
        config=PlainConfig,
        build="fivefold_gnnpipe.engine.plain:build",
        summary="full-graph training on one device",
        provides=frozenset({Exactness.EXACT}),
        needs=_NEEDS,
    )
    graph_parallel = Method(
        name="graph_parallel",
        config=GraphParallelConfig,
        build="fivefold_gnnpipe.engine.graph_parallel:build",
        summary="the graph over all devices, boundary rows exchanged in every layer",
        reference="arXiv 2005.03300",
        provides=frozenset({Exactness.EXACT}),
        needs=_NEEDS,
    )
    gnnpipe = Method(
        name="gnnpipe",
        config=GNNPipeConfig,
        build="fivefold_gnnpipe.pipe.train:build",
        summary="the layers over all devices, chunks of the graph in a pipeline",
        reference="arXiv 2308.10087",
        provides=frozenset({Exactness.EXACT, Exactness.STALE}),
        needs=_NEEDS,
    )
    return [plain, graph_parallel, gnnpipe]


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe graph, graph plan and graph predict."""
    return TASKS
