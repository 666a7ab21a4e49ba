"""Settings of `training=gnnpipe` and of `fivefold graph plan`. Light: no torch."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fivefold import UserError

from ..config import (
    ModelConfig,
    PartitionConfig,
    TransportConfig,
    require,
)
from ..settling import settle

_log = logging.getLogger(__name__)
_CHUNKS_A_RANK = 4
"""Chunks for each stage (and way) where nothing is said: 4 · stages in the source's runs."""
_PERIODS = 5
"""History periods that a run should last."""


class Mode(StrEnum):
    """What a pipeline processes one after another."""

    STALE = "stale"
    """Chunks of the graph; neighbours in later chunks are read from the history (the source)."""
    EXACT = "exact"
    """The whole graph at once: full-graph training, one stage at work at a time."""
    SWEEP = "sweep"
    """Whole replicas with other seeds or learning rates: exact, and every stage is at work."""


class Begin(StrEnum):
    """What the history holds before the first refresh."""

    ZERO = "zero"
    """Zeros."""
    WARM = "warm"
    """The rows of one exact forward pass of the untrained network."""


class HistoryDropout(StrEnum):
    """Which dropout mask a row of the history has when it is read."""

    FRESH = "fresh"
    """The epoch's own: rows are kept before dropout."""
    FROZEN = "frozen"
    """That of the epoch in which it was kept, as in the source's code."""


class FirstLayer(StrEnum):
    """How the first aggregation reads what the encoder makes."""

    FRESH = "fresh"
    """The encoder runs for all chunks before the first one: nothing is stale there."""
    STALE = "stale"
    """Chunk by chunk, as in the source's code."""


class Initial(StrEnum):
    """How stages come by GCNII's initial embedding."""

    AUTO = "auto"
    """Whichever sends less."""
    RECOMPUTE = "recompute"
    """Every stage computes it of the features: half of the bytes."""
    SEND = "send"
    """It travels beside the carried rows, as in the source's code."""


class HistoryDtype(StrEnum):
    """Number format of the history."""

    FLOAT32 = "float32"
    """That of the activations (float64 under runtime.dtype=float64)."""
    FLOAT16 = "float16"
    """Half of the memory; refused when a value does not fit."""
    BFLOAT16 = "bfloat16"
    """Half of the memory, three digits."""


@dataclass
class HistoryConfig:
    """Rows of neighbours that this epoch has not processed yet."""

    refresh: int = 20
    """Epochs between refreshes of the history, R."""
    init: Begin = Begin.ZERO
    """What it holds before the first refresh: `zero`, or `warm` (one exact forward pass)."""
    dropout: HistoryDropout = HistoryDropout.FRESH
    """`fresh`: today's dropout mask on old rows; `frozen`: the mask they were kept with."""
    dtype: HistoryDtype = HistoryDtype.FLOAT32
    """Number format: float32, float16 or bfloat16."""
    auto_refresh: float | None = None
    """Refresh as soon as a layer's mean relative staleness passes this; off when not given."""

    def __post_init__(self) -> None:
        settle(self, "training.history.")
        setting, remedy = "training.history.refresh", "give 1 or more"
        require(self.refresh >= 1, "a history without a period", setting, self.refresh, remedy)
        limit, setting = self.auto_refresh, "training.history.auto_refresh"
        fits = limit is None or 0 < limit < math.inf
        require(fits, "not a distance", setting, limit, "give more than 0, or null")


@dataclass
class SweepConfig:
    """Replicas of `training.mode=sweep`: every seed with every learning rate."""

    seeds: list[int] = field(default_factory=list)
    """Seeds of weights and dropout; empty: the run's own."""
    lr: list[float] = field(default_factory=list)
    """Learning rates; empty: the run's own."""

    def __post_init__(self) -> None:
        settle(self, "training.sweep.")
        fits = all(0 < rate < math.inf for rate in self.lr)
        require(fits, "not a learning rate", "training.sweep.lr", self.lr, "give more than 0")
        fits, setting = all(0 <= seed < 2**63 for seed in self.seeds), "training.sweep.seeds"
        require(fits, "no seed", setting, self.seeds, "give numbers from 0 to 2^63 - 1")
        for name in ("lr", "seeds"):
            values, setting = getattr(self, name), f"training.sweep.{name}"
            is_once = len(set(values)) == len(values)
            require(is_once, "the same replica twice", setting, values, "give each value once")


@dataclass
class GNNPipeConfig:
    """Settings of `training=gnnpipe`."""

    stages: int = 2
    """Runs of layers, one a device (or one a group of `ways` devices)."""
    ways: int = 1
    """Devices that share a stage, each with a part of the graph: the hybrid."""
    chunks: int = 0
    """Parts of the graph that follow one another through the pipeline; 0: 4 · stages · ways."""
    mode: Mode = Mode.STALE
    """`stale` (the source), `exact`, or `sweep`."""
    cuts: list[int] = field(default_factory=list)
    """Layers after which a stage ends, as `[8,16,24]`; empty: where the measured cost says."""
    shuffle: bool = True
    """Draw a new order of chunks every epoch."""
    cross_gradient: float = 2.0
    """Factor of gradients that cross from a later chunk to an earlier one; 1 is the gradient of
    the loss that was computed."""
    first_layer: FirstLayer = FirstLayer.FRESH
    """`fresh`: the encoder runs for all chunks first; `stale`: chunk by chunk."""
    initial: Initial = Initial.AUTO
    """GCNII's initial embedding: `recompute` it on every stage, `send` it, or `auto`."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    staleness: bool = True
    """Measure the distance between history and fresh rows at every evaluated epoch."""
    history: HistoryConfig = field(default_factory=HistoryConfig)
    """When rows are kept and how they are read."""
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    """How vertices are divided into chunks."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """What the replicas of `mode=sweep` differ in."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    """What carries rows and gradients."""

    def __post_init__(self) -> None:
        settle(self, "training.")
        require(self.stages >= 1, "no stage", "training.stages", self.stages, "give 1 or more")
        require(self.ways >= 1, "no way", "training.ways", self.ways, "give 1 or more")
        require(self.chunks >= 0, "negative", "training.chunks", self.chunks, "give 0 or more")
        beta, setting = self.cross_gradient, "training.cross_gradient"
        require(0 <= beta < math.inf, "not a factor", setting, beta, "give 0 or more")
        self._check_chunks()
        self._check_cuts()
        swept = bool(self.sweep.seeds or self.sweep.lr)
        if self.mode is Mode.SWEEP and not swept:
            raise UserError(
                "a sweep of one replica",
                setting="training.sweep.seeds",
                remedy="give training.sweep.seeds=[0,1,2,3] or training.sweep.lr=[…]",
            )
        if swept and self.mode is not Mode.SWEEP:
            raise UserError(
                f"mode={self.mode.value} trains one network",
                setting="training.sweep.seeds" if self.sweep.seeds else "training.sweep.lr",
                value=self.sweep.seeds or self.sweep.lr,
                remedy="set training.mode=sweep, or leave it out",
            )

    @property
    def num_chunks(self) -> int:
        """Chunks, K; one for each way where the mode is exact."""
        if self.mode is not Mode.STALE:
            return self.ways
        return self.chunks or _CHUNKS_A_RANK * self.stages * self.ways

    @property
    def num_replicas(self) -> int:
        """Replicas of a sweep; 1 in other modes."""
        if self.mode is not Mode.SWEEP:
            return 1
        return max(1, len(self.sweep.seeds)) * max(1, len(self.sweep.lr))

    def check(self, task: Any, run: Any) -> None:
        """Refuse, before torch is loaded, what does not suit the model or the run.

        Args:
            task: the task's settings; whatever its epochs, the pipeline is legal.
            run: the run.

        Raises:
            UserError: more stages than layers, cuts outside the model, attention with β.
        """
        model = run.node("model", ModelConfig)
        if ":" not in model.name:
            self.check_model(model.layers, has_attention=model.name == "gat")

    def check_model(self, num_blocks: int, *, has_attention: bool) -> None:
        """Refuse a pipeline that does not suit a model.

        Raises:
            UserError: more stages than layers, cuts outside the model, attention with β.
        """
        if self.stages > num_blocks:
            raise UserError(
                f"{self.stages} stages of a model of {num_blocks} layers",
                setting="training.stages",
                value=self.stages,
                remedy=f"give at most {num_blocks}, or more model.layers",
            )
        if self.cuts and self.cuts[-1] >= num_blocks:
            raise UserError(
                f"the last stage has no layer: the model has {num_blocks}",
                setting="training.cuts",
                value=self.cuts,
                remedy=f"cut after layers 1 to {num_blocks - 1}",
            )
        if has_attention and self.mode is Mode.STALE and self.cross_gradient != 1.0:
            raise UserError(
                "the scaling of crossing gradients is defined for fixed edge weights, and this "
                "model has attention",
                setting="training.cross_gradient",
                value=self.cross_gradient,
                remedy="set training.cross_gradient=1",
            )

    def warn_if_short(self, epochs: int) -> None:
        """Say that a run is shorter than the history needs."""
        if epochs < _PERIODS * self.history.refresh:
            _log.warning(
                "%d epochs are fewer than %d periods of the history (training.history.refresh=%d): "
                "the first period reads what the history began with; train longer or refresh more",
                epochs,
                _PERIODS,
                self.history.refresh,
            )

    def _check_chunks(self) -> None:
        setting, count = "training.chunks", self.chunks
        is_chunked, remedy = self.mode is Mode.STALE, "set training.mode=stale, or leave it out"
        problem = f"mode={self.mode.value} takes the graph whole"
        require(is_chunked or not count, problem, setting, count, remedy)
        if not count:
            return
        remedy = f"give a multiple of training.ways={self.ways}"
        require(count % self.ways == 0, "the ways do not divide the chunks", setting, count, remedy)
        least = self.stages * self.ways
        problem = f"{count} chunks keep {self.stages} stages of {self.ways} ways waiting"
        require(count >= least, problem, setting, count, f"give {least} or more")
        if count < _CHUNKS_A_RANK * least:
            _log.warning(
                "%d chunks: stages are at work %.0f %% of the time; %d would be %.0f %%",
                count,
                _utilisation(count // self.ways, self.stages),
                _CHUNKS_A_RANK * least,
                _utilisation(_CHUNKS_A_RANK * self.stages, self.stages),
            )

    def _check_cuts(self) -> None:
        if not self.cuts:
            return
        setting, cuts = "training.cuts", self.cuts
        wanted = self.stages - 1
        problem = f"{len(cuts)} cuts for {self.stages} stages"
        require(len(cuts) == wanted, problem, setting, cuts, f"give {wanted}")
        ascends = all(a < b for a, b in zip([0, *cuts], cuts, strict=False))
        require(ascends, "a stage without a layer", setting, cuts, "give ascending layer numbers")


def _utilisation(slots: int, stages: int) -> float:
    return 100.0 * slots / (slots + stages - 1)


@dataclass
class PlanConfig:
    """Compare one device, graph parallelism and pipelines before training."""

    devices: int = 0
    """Devices to plan for; 0: training.stages · training.ways, 2 if neither is given."""
    link_mbit: float | None = None
    """Rate of each device's link, in Mbit/s each way; nothing: measured between the ranks of
    torchrun, 1000 in one process."""
    measure: bool = True
    """Train three epochs of every way to measure what the link leaves: seconds of computation."""
    seed: int = 0
    """Seed of weights and of chunk orders."""

    def __post_init__(self) -> None:
        settle(self, "")
        require(self.devices >= 0, "negative", "devices", self.devices, "give 0 or more")
        rate = self.link_mbit
        fits = rate is None or 0 < rate < math.inf
        require(fits, "a link without a rate", "link_mbit", rate, "give Mbit/s above 0, or null")
