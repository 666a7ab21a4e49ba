"""What this package offers to the host: training methods and tasks. Light: no torch."""

from __future__ import annotations

from fivefold import Method, Task, hookimpl

from ._words import Promise
from .config import FaithfulConfig, LayerCheckpointConfig, MstConfig, PlainConfig
from .engine.task import TRAIN
from .task_configs import TASKS

_TRAIN = frozenset({"task:train"})
_EXACT = frozenset({Promise.EXACT})


@hookimpl
def fivefold_training() -> list[Method]:
    """Describe plain training, layer checkpointing, and the Mini-Sequence Transformer."""
    plain = Method(
        name="plain",
        config=PlainConfig,
        build="fivefold_mst_train.mst.methods:build_plain",
        summary="the model as it is",
        provides=_EXACT,
        needs=_TRAIN,
    )
    checkpoint = Method(
        name="checkpoint",
        config=LayerCheckpointConfig,
        build="fivefold_mst_train.mst.methods:build_checkpoint",
        summary="layers are computed again in backward",
        reference="arXiv 1604.06174",
        provides=_EXACT,
        needs=_TRAIN,
    )
    mst = Method(
        name="mst",
        config=MstConfig,
        build="fivefold_mst_train.mst.methods:build_mst",
        summary="MLPs and the head run mini-sequence by mini-sequence, forward and backward",
        reference="arXiv 2407.15892",
        provides=_EXACT,
        needs=_TRAIN,
    )
    faithful = Method(
        name="mst_faithful",
        config=FaithfulConfig,
        build="fivefold_mst_train.mst.methods:build_faithful",
        summary="the source's own scheme, split without recompute by tile, without its bugs",
        reference="arXiv 2407.15892, section 3",
        provides=_EXACT,
        needs=_TRAIN,
    )
    return [plain, checkpoint, mst, faithful]


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe `train`, `train plan` and `train inspect`."""
    return [TRAIN, *TASKS]
