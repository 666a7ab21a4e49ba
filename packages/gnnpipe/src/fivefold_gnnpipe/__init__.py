"""Fivefold's graph training: deep GNNs on one whole graph, on one device or several.

Names are imported when they are first used, so that `import fivefold_gnnpipe` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._words import Balance, Exactness, Norm, Split, Wire
    from .config import (
        DataConfig,
        GraphParallelConfig,
        ModelConfig,
        PartitionConfig,
        PlainConfig,
        TrainOptions,
        TransportConfig,
    )
    from .engine.api import Trained, train
    from .engine.edges import Edges, graph_edges
    from .engine.graph import GraphData
    from .engine.models import make_plan
    from .engine.partition import Partition, make_partition
    from .engine.plan import Block, ConvBlock, LayerPlan, SparseBlock
    from .engine.sources import load_graph
    from .engine.training import EpochReport, GraphTraining, Session
    from .engine.wrapping import plan_of
    from .pipe.config import GNNPipeConfig

_HOMES = {
    "_words": ("Balance", "Exactness", "Norm", "Split", "Wire"),
    "config": (
        "DataConfig",
        "GraphParallelConfig",
        "ModelConfig",
        "PartitionConfig",
        "PlainConfig",
        "TrainOptions",
        "TransportConfig",
    ),
    "engine.api": ("Trained", "train"),
    "engine.edges": ("Edges", "graph_edges"),
    "engine.graph": ("GraphData",),
    "engine.models": ("make_plan",),
    "engine.partition": ("Partition", "make_partition"),
    "engine.plan": ("Block", "ConvBlock", "LayerPlan", "SparseBlock"),
    "engine.sources": ("load_graph",),
    "engine.training": ("EpochReport", "GraphTraining", "Session"),
    "engine.wrapping": ("plan_of",),
    "pipe.config": ("GNNPipeConfig",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Balance",
    "Block",
    "ConvBlock",
    "DataConfig",
    "Edges",
    "EpochReport",
    "Exactness",
    "GNNPipeConfig",
    "GraphData",
    "GraphParallelConfig",
    "GraphTraining",
    "LayerPlan",
    "ModelConfig",
    "Norm",
    "Partition",
    "PartitionConfig",
    "PlainConfig",
    "Session",
    "SparseBlock",
    "Split",
    "TrainOptions",
    "Trained",
    "TransportConfig",
    "Wire",
    "graph_edges",
    "load_graph",
    "make_partition",
    "make_plan",
    "plan_of",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
