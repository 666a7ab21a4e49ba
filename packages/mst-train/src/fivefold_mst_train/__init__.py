"""Training for Fivefold: long sequences in little memory, exactly, and the loop around it.

Names are imported when they are first used, so that `import fivefold_mst_train` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import (
        BlockConfig,
        BudgetConfig,
        CheckpointConfig,
        FaithfulConfig,
        HeadConfig,
        LayerCheckpointConfig,
        MlpConfig,
        MstConfig,
        PlainConfig,
    )
    from .engine.config import DataConfig, OptimizerConfig, TrainConfig
    from .engine.data.blocks import Batch, Blocks
    from .engine.distill.soft_loss import divergence, soft_cross_entropy
    from .engine.loop import Budget, Loop, Progress, Report
    from .engine.modules import train_module
    from .engine.optimizers import Optimizers
    from .engine.reading import read_blocks
    from .engine.training import train
    from .live_bytes import LiveBytes
    from .mst.linear_cross_entropy import linear_cross_entropy, vocab_parallel_cross_entropy
    from .mst.patch import PatchHandle, apply_mst
    from .mst.tiled import tiled
    from .protocol import TokenScores, TrainingHandle, TrainingMethod

_HOMES = {
    "config": (
        "BlockConfig",
        "BudgetConfig",
        "CheckpointConfig",
        "FaithfulConfig",
        "HeadConfig",
        "LayerCheckpointConfig",
        "MlpConfig",
        "MstConfig",
        "PlainConfig",
    ),
    "engine.config": ("DataConfig", "OptimizerConfig", "TrainConfig"),
    "engine.data.blocks": ("Batch", "Blocks"),
    "engine.distill.soft_loss": ("divergence", "soft_cross_entropy"),
    "engine.loop": ("Budget", "Loop", "Progress", "Report"),
    "engine.modules": ("train_module",),
    "engine.optimizers": ("Optimizers",),
    "engine.reading": ("read_blocks",),
    "engine.training": ("train",),
    "live_bytes": ("LiveBytes",),
    "mst.linear_cross_entropy": ("linear_cross_entropy", "vocab_parallel_cross_entropy"),
    "mst.patch": ("PatchHandle", "apply_mst"),
    "mst.tiled": ("tiled",),
    "protocol": ("TokenScores", "TrainingHandle", "TrainingMethod"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "BlockConfig",
    "Blocks",
    "Budget",
    "BudgetConfig",
    "CheckpointConfig",
    "DataConfig",
    "FaithfulConfig",
    "HeadConfig",
    "LayerCheckpointConfig",
    "LiveBytes",
    "Loop",
    "MlpConfig",
    "MstConfig",
    "OptimizerConfig",
    "Optimizers",
    "PatchHandle",
    "PlainConfig",
    "Progress",
    "Report",
    "TokenScores",
    "TrainConfig",
    "TrainingHandle",
    "TrainingMethod",
    "apply_mst",
    "divergence",
    "linear_cross_entropy",
    "read_blocks",
    "soft_cross_entropy",
    "tiled",
    "train",
    "train_module",
    "vocab_parallel_cross_entropy",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
