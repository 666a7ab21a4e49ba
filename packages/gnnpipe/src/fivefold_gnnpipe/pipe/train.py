"""Build `training=gnnpipe`: refuse what does not fit, divide the graph, cut the layers."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from fivefold import UserError

from ..config import ModelConfig
from ..engine.agreed import agreed_facts
from ..engine.edges import Edges, graph_edges
from ..engine.fleet import Fleet, open_fleet
from ..engine.graph import GraphData
from ..engine.models import make_plan
from ..engine.partition import Partition, nested_partition
from ..engine.plan import LayerPlan
from ..engine.training import Session
from ..engine.transport import Transport
from .chunked import ChunkedRank
from .chunks import WayTable, way_table
from .config import GNNPipeConfig, Mode
from .costs import layer_seconds
from .rank import PipeRank
from .setup import Layout, flat_settings, guessing_loss, sends_initial, sizes_of
from .split import split
from .training import GNNPipeTraining
from .whole import WholeRank

_log = logging.getLogger(__name__)
_DEEP = 8
"""Layers from which a network without residual is known to collapse under staleness."""
_ROUNDING = 4
"""Layers' costs are rounded to a quarter of the cheapest: noise must not move a cut."""


def build(
    settings: GNNPipeConfig, plan: LayerPlan, data: GraphData, session: Session
) -> GNNPipeTraining:
    """Return pipelined training.

    Raises:
        UserError: whatever of the settings does not suit the model, the graph or the ranks; ranks
            that disagree.
    """
    _refuse(settings, plan, data)
    _warn(settings, plan, session)
    size = settings.stages * settings.ways
    fleet = open_fleet(settings.transport, size, session, "training.stages")
    settings_of_all = {
        f"training.{key}": str(value) for key, value in flat_settings(settings).items()
    }
    facts = {"training": "gnnpipe", **settings_of_all, **agreed_facts(plan, data, session)}
    fleet.agree(facts)
    edges = graph_edges(data, plan.norm, plan.loops, session.dtype)
    partition = nested_partition(
        settings.partition, edges.edge_index, data.num_nodes, settings.ways, settings.num_chunks
    )
    fleet.agree({"training.partition": partition.digest})
    tables = _tables(settings, edges, partition, fleet, session)
    table = next(iter(tables.values()))
    cuts = settings.cuts or _measured_cuts(settings, plan, table, data, session, fleet)
    sizes = sizes_of(plan, data.num_nodes, session.dtype)
    layout = Layout(
        settings,
        partition,
        edges,
        cuts,
        sizes,
        sends_initial(settings, sizes, cuts),
        data.num_classes,
        guessing_loss(data),
    )
    ranks = {end.rank: _replicas(layout, plan, tables, data, end, session) for end in fleet.local}
    return GNNPipeTraining(plan, data, session, settings, layout, fleet, ranks)


def _refuse(settings: GNNPipeConfig, plan: LayerPlan, data: GraphData) -> None:
    settings.check_model(plan.num_blocks, has_attention=plan.attention)
    if settings.num_chunks > data.num_nodes:
        raise UserError(
            f"{settings.num_chunks} chunks of a graph of {data.num_nodes} vertices",
            setting="training.chunks",
            value=settings.num_chunks,
            remedy="give fewer chunks, or fewer training.stages",
        )
    mixing = plan.mixes_vertices
    if mixing and (settings.mode is Mode.STALE or settings.ways > 1):
        raise UserError(
            f"{mixing} takes statistics over all vertices, and a chunk has a part of them",
            setting="training.mode",
            value=settings.mode.value,
            remedy="use LayerNorm over features, or training.mode=exact with training.ways=1",
        )
    if settings.mode is Mode.SWEEP and settings.ways > 1:
        raise UserError(
            "a sweep keeps its stages busy with replicas, not with ways",
            setting="training.ways",
            value=settings.ways,
            remedy="set training.ways=1",
        )


def _warn(settings: GNNPipeConfig, plan: LayerPlan, session: Session) -> None:
    """Say what is unwise, on the first rank."""
    if settings.mode is not Mode.STALE or session.rank:
        return
    settings.warn_if_short(session.options.epochs)
    if plan.num_blocks >= _DEEP and not plan.residual:
        _log.warning(
            "%d layers without a residual or initial connection are known to collapse when "
            "neighbours are stale; model=gcnii and model=resgcn do not",
            plan.num_blocks,
        )
    if settings.cross_gradient != 1.0 and not settings.shuffle:
        _log.warning(
            "training.cross_gradient=%g without training.shuffle doubles the same edges in "
            "every epoch and drops the others",
            settings.cross_gradient,
        )


def _tables(
    settings: GNNPipeConfig,
    edges: Edges,
    partition: Partition,
    fleet: Fleet,
    session: Session,
) -> dict[int, WayTable]:
    """Return the tables of the ways that this process's ranks have."""
    wanted = sorted({end.rank % settings.ways for end in fleet.local})
    return {way: way_table(edges, partition, settings.ways, way, session.device) for way in wanted}


def _measured_cuts(
    settings: GNNPipeConfig,
    plan: LayerPlan,
    table: WayTable,
    data: GraphData,
    session: Session,
    fleet: Fleet,
) -> list[int]:
    """Return the cuts that rank 0's measurement says; all ranks use these."""
    if settings.stages == 1:
        return []
    found = []
    if fleet.holds_first:
        seconds = layer_seconds(plan.to(session.device, session.dtype), table, data)
        found = split(_rounded(seconds), settings.stages)
    cuts: list[int] = json.loads(fleet.exchange(json.dumps(found))[0])
    return cuts


def _rounded(seconds: Sequence[float]) -> list[float]:
    unit = min(seconds) / _ROUNDING
    return [round(value / unit) / _ROUNDING for value in seconds]


def _replicas(
    layout: Layout,
    plan: LayerPlan,
    tables: dict[int, WayTable],
    data: GraphData,
    end: Transport,
    session: Session,
) -> list[PipeRank]:
    """Return a rank's part of the model, or of every replica of a sweep."""
    settings = layout.settings
    stage, way = divmod(end.rank, settings.ways)
    if settings.mode is not Mode.SWEEP:
        own = plan if settings.stages * settings.ways == session.world else copy.deepcopy(plan)
        part = layout.part(own, stage, way)
        if settings.mode is Mode.EXACT and settings.ways == 1:
            return [WholeRank(part, tables[way], data, end, session, settings)]
        return [ChunkedRank(part, tables[way], data, end, session, settings)]
    seeds = settings.sweep.seeds or [session.options.seed]
    rates = settings.sweep.lr or [session.options.lr]
    pairs = [(seed, rate) for seed in seeds for rate in rates]
    ranks: list[PipeRank] = []
    for replica, (seed, rate) in enumerate(pairs):
        options = replace(session.options, seed=seed, lr=rate)
        part = layout.part(_reseeded(plan, seed, session), stage, way)
        ranks.append(
            WholeRank(
                part, tables[way], data, end, replace(session, options=options), settings, replica
            )
        )
    return ranks


def _reseeded(plan: LayerPlan, seed: int, session: Session) -> LayerPlan:
    """Return the plan as a run of its own with that seed would begin with it.

    A network without a recipe is drawn again layer by layer, by the layers' own laws.
    """
    if seed == session.options.seed:
        return copy.deepcopy(plan)
    if plan.recipe:
        known = {field.name for field in fields(ModelConfig)}
        config = ModelConfig(**{k: v for k, v in plan.recipe.items() if k in known})  # type: ignore[arg-type]
        classes = plan.recipe["num_classes"]
        assert isinstance(classes, int)
        return make_plan(config, plan.num_features, classes, seed=seed, dtype=session.dtype)
    own = copy.deepcopy(plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in own.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return own
