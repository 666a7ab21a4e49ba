"""Settings of `training=gnnpipe` and of `fivefold graph plan`. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class GNNPipeConfig:
    """Settings of `training=gnnpipe`."""

    stages: int = 2
    """Runs of layers, one a device."""


@dataclass
class PlanConfig:
    """Compare one device, graph parallelism and pipelines before training."""
