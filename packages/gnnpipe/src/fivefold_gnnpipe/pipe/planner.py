"""What one device, graph parallelism and every pipeline would send, take and hold: before training.

Bytes and memory are the formulas of `volume.py` on the partition that would be used. Seconds, and
on a CPU the memory too, come from a few epochs of each way on virtual ranks in this process:
computation is measured here, the link is simulated at the given rate, and each virtual rank's
clock goes on alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from fivefold import UserError

from .._words import Split, Wire
from ..config import GraphParallelConfig, PartitionConfig, PlainConfig, TransportConfig
from ..engine.edges import graph_edges
from ..engine.graph import GraphData
from ..engine.graph_parallel import build as build_graph_parallel
from ..engine.partition import best_partition, boundary
from ..engine.plain import build as build_plain
from ..engine.plan import LayerPlan, SparseBlock
from ..engine.training import GraphTraining, Session
from ..engine.transport import Transport
from .config import GNNPipeConfig, Mode
from .setup import sends_initial, sizes_of
from .split import split
from .train import build as build_pipeline
from .volume import (
    crossover_layers,
    graph_parallel_bytes,
    graph_parallel_memory,
    pipeline_bytes,
    pipeline_memory,
    plain_memory,
    utilisation,
)

_EPOCHS = 3
"""Epochs that are timed; the first warms up."""
_MANY = 1 << 20


@dataclass(frozen=True)
class Way:
    """One way to train, as the planner sees it."""

    name: str
    """`one device`, `graph parallel`, `pipeline`, `hybrid`."""
    stages: int
    """Stages, S."""
    ways: int
    """Devices a stage, W."""
    bytes: int
    """Bytes an epoch, all devices."""
    memory_bytes: int
    """Bytes that the fullest device holds: counted where epochs were trained on a CPU, else by the
    formula, which does not know what attention keeps of edges."""
    utilisation: float
    """Share of time that the schedule leaves a device at work."""
    seconds: float | None = None
    """Predicted seconds an epoch; `None` when nothing was measured."""
    seconds_waited: float | None = None
    """Of them, the longest wait of a device for its link or its neighbours."""

    @property
    def devices(self) -> int:
        """Devices."""
        return self.stages * self.ways


@dataclass(frozen=True)
class Prospect:
    """All ways to train on so many devices."""

    ways: list[Way]
    """One a row."""
    boundary: int
    """B of the best partition for graph parallelism."""
    crossover: float
    """Layers from which a pipeline of all devices sends less than graph parallelism."""

    def best(self) -> Way:
        """Return the fastest way; of ways without a prediction, the one that sends least.

        One device sends nothing, so without a prediction it is left out.
        """
        timed = [way for way in self.ways if way.seconds is not None]
        if timed:
            return min(timed, key=lambda way: (way.seconds or 0.0, way.bytes))
        return min((w for w in self.ways if w.devices > 1), key=lambda way: way.bytes)


def prospect(
    plan: LayerPlan,
    data: GraphData,
    session: Session,
    settings: GNNPipeConfig,
    devices: int,
    link_mbit: float | None,
    *,
    measures: bool = True,
    meet: Callable[[], object] = lambda: None,
) -> Prospect:
    """Return what each way of training would cost.

    Args:
        plan: the network; it is not changed.
        data: the graph.
        session: device, number format, seed.
        settings: of the pipeline: chunks, partition, history.
        devices: devices to plan for.
        link_mbit: rate of each device's link, each way; `None`: messages take no time.
        measures: whether a few epochs of every way are timed.
        meet: called before each way is timed; where ranks meet, they time at the same moment.

    Raises:
        UserError: what the pipeline refuses of the model, a sweep, more devices than vertices.
    """
    if settings.mode is Mode.SWEEP:
        raise UserError(
            "ways to train one network are compared",
            setting="training.mode",
            value=settings.mode.value,
            remedy="leave it out: a replica of a sweep takes a slot, as a chunk does",
        )
    wire = TransportConfig(kind=Wire.LOOPBACK, emulate_mbit=link_mbit)
    pipelines = [
        _settings(settings, stages, width, wire)
        for stages, width in grids(devices, plan.num_blocks)
    ]
    for own in pipelines:
        own.check_model(plan.num_blocks, has_attention=plan.attention)
    options = replace(session.options, epochs=_MANY, eval_every=_MANY)
    session = replace(session, options=options, rank=0, world=1)
    edges = graph_edges(data, plan.norm, plan.loops, session.dtype)
    sizes = sizes_of(plan, data.num_nodes, session.dtype)
    ways = [Way("one device", 1, 1, 0, plain_memory(sizes, edges.num_edges), 1.0)]
    built: list[object] = [PlainConfig()]
    parts = best_partition(PartitionConfig(), edges.edge_index, data.num_nodes, devices, "devices")
    rows = boundary(parts, edges.edge_index)
    if devices > 1:
        sent = graph_parallel_bytes(sizes, rows, devices)
        held = graph_parallel_memory(sizes, edges.num_edges, rows, devices)
        ways.append(Way("graph parallel", 1, devices, sent, held, 1.0))
        built.append(GraphParallelConfig(devices, transport=wire))
    pushes = not all(isinstance(block, SparseBlock) for block in plan.layers)
    for own in pipelines:
        stages, width = own.stages, own.ways
        cuts = own.cuts or split([1.0] * plan.num_blocks, stages)
        cut = PartitionConfig() if own.partition.method is Split.FILE else own.partition
        across = best_partition(cut, edges.edge_index, data.num_nodes, width)
        between = boundary(across, edges.edge_index) if width > 1 else 0
        travels = sends_initial(own, sizes, cuts)
        sent = pipeline_bytes(sizes, cuts, sends_initial=travels, ways=width, boundary=between)
        held = pipeline_memory(
            sizes,
            cuts,
            edges.num_edges,
            ways=width,
            boundary=between,
            recompute=own.recompute,
            pushes=pushes,
        )
        name = "pipeline" if width == 1 else "hybrid"
        at_work = utilisation(own.num_chunks // width, stages)
        ways.append(Way(name, stages, width, sent, held, at_work))
        built.append(own)
    if measures:
        timed = []
        for way, config in zip(ways, built, strict=True):
            meet()
            timed.append(_timed(way, config, plan, data, session))
        ways = timed
    width = sizes.widths[-1]
    crossover = crossover_layers(data.num_nodes, rows, devices, sizes.carried[0], width)
    return Prospect(ways, rows, crossover)


def prospect_of_all(
    end: Transport,
    plan: LayerPlan,
    data: GraphData,
    session: Session,
    settings: GNNPipeConfig,
    devices: int,
    link_mbit: float | None,
    *,
    measures: bool = True,
) -> Prospect:
    """Return what every rank of torchrun finds, the slowest rank's seconds of each way.

    All time the same way at the same moment, as they would train: processors and memory that
    they share are in the seconds.

    Args:
        end: this rank's end; the other arguments are those of `prospect`.
        plan: the network.
        data: the graph.
        session: device, number format, seed.
        settings: of the pipeline.
        devices: devices to plan for.
        link_mbit: rate of each device's link.
        measures: whether a few epochs of every way are timed.
    """
    found = prospect(
        plan,
        data,
        session,
        settings,
        devices,
        link_mbit,
        measures=measures,
        meet=lambda: end.exchange("ready"),
    )
    own = json.dumps([(way.seconds, way.seconds_waited) for way in found.ways])
    notes = [json.loads(note) for note in end.exchange(own)]
    if not measures:
        return found
    slowest = [max(seconds) for seconds in zip(*notes, strict=True)]
    ways = [
        replace(way, seconds=seconds, seconds_waited=waited)
        for way, (seconds, waited) in zip(found.ways, slowest, strict=True)
    ]
    return replace(found, ways=ways)


def grids(devices: int, num_blocks: int) -> Iterator[tuple[int, int]]:
    """Yield every grid of stages and ways with at least two stages: the pipeline, the hybrids."""
    for ways in range(1, devices):
        stages = devices // ways
        if devices % ways == 0 and 2 <= stages <= num_blocks:
            yield stages, ways


def _settings(
    settings: GNNPipeConfig, stages: int, ways: int, wire: TransportConfig
) -> GNNPipeConfig:
    """Return the pipeline's settings for another grid."""
    is_same = stages == settings.stages and ways == settings.ways
    is_file = settings.partition.method is Split.FILE
    mode = Mode.EXACT if settings.mode is Mode.EXACT else Mode.STALE
    return replace(
        settings,
        stages=stages,
        ways=ways,
        mode=mode,
        chunks=settings.chunks if is_same else 0,
        cuts=settings.cuts if is_same else [],
        partition=settings.partition if is_same or not is_file else PartitionConfig(),
        transport=wire,
    )


def _timed(way: Way, config: object, plan: LayerPlan, data: GraphData, session: Session) -> Way:
    """Return a way with the seconds of its epochs on virtual ranks, the bytes sent and held."""
    method = _build(config, copy.deepcopy(plan), data, session)
    try:
        reports = [method.epoch(index) for index in range(_EPOCHS)][1:]
        counted = method.facts()["peak_memory_bytes"]
    finally:
        method.close()
    on_cpu = session.device.type == "cpu"
    return replace(
        way,
        bytes=reports[-1].bytes_sent,
        memory_bytes=counted if on_cpu and isinstance(counted, int) else way.memory_bytes,
        seconds=median(report.seconds for report in reports),
        seconds_waited=median(report.seconds_waited for report in reports),
    )


def _build(config: object, plan: LayerPlan, data: GraphData, session: Session) -> GraphTraining:
    if isinstance(config, GNNPipeConfig):
        return build_pipeline(config, plan, data, session)
    if isinstance(config, GraphParallelConfig):
        return build_graph_parallel(config, plan, data, session)
    assert isinstance(config, PlainConfig)
    return build_plain(config, plan, data, session)
