"""`training=graph_parallel`: every layer on every device, boundary rows exchanged in each.

Each device owns a part of the vertices. Before a layer it sends the rows that others aggregate and
receives those that it aggregates itself; in the backward pass their gradients travel back. Bytes
an epoch, all devices: 2 · B · e · (sum of aggregated widths) + 2 (W - 1) · |θ| · e, where the first
layer counts for nothing if it reads the features, which are copied once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor

from ..config import GraphParallelConfig
from .agreed import agreed_facts
from .edges import graph_edges
from .fleet import Fleet, open_fleet
from .graph import GraphData
from .graph_rank import GraphRank, shards_of
from .memory import PeakBytes, metered
from .optimizer import optimizer_tensors, restore_optimizer
from .partition import Partition, best_partition, boundary, imbalance
from .plan import LayerPlan
from .reporting import Gathered, gather, mark
from .training import EpochReport, Session
from .transport import Program, Transport

_IN_ONE_PROCESS = 2
"""Ways in one process when nothing is said."""


class GraphParallelTraining:
    """Full-graph training over W devices, exact up to the order of sums."""

    def __init__(
        self,
        plan: LayerPlan,
        data: GraphData,
        session: Session,
        partition: Partition,
        fleet: Fleet,
    ) -> None:
        self._data, self._session, self._partition, self._fleet = data, session, partition, fleet
        self._plan = plan
        edges = graph_edges(data, plan.norm, plan.loops, session.dtype)
        self._boundary = boundary(partition, edges.edge_index)
        self._imbalance = imbalance(partition, edges.edge_index)
        wanted = {end.rank for end in fleet.local}
        shards = shards_of(data, edges, partition, wanted)
        self._ranks = {
            end.rank: GraphRank(_own(plan, fleet), shards[end.rank], end, session)
            for end in fleet.local
        }
        self._meters = {rank: PeakBytes() for rank in self._ranks}
        self._is_metered = session.device.type == "cpu"
        self._peaks: list[int] = [0] * fleet.size

    # ----------------------------------------------------------------------------------- training

    def epoch(self, index: int) -> EpochReport:
        """Forward, backward with boundary exchange, ring all-reduce of weight gradients, step."""
        meters = self._meters if self._is_metered else {}
        self._is_metered = False

        def program(end: Transport) -> Program[Gathered]:
            begun, work = mark(end), self._ranks[end.rank].epoch(index)
            meter = meters.get(end.rank)
            loss = yield from (work if meter is None else metered(work, meter))
            end.flush()
            return (yield from gather(end, begun, loss, self._peak(end.rank)))

        found = self._fleet.run(program)[0]
        self._peaks = found.peaks
        return found.report

    def _peak(self, rank: int) -> int:
        if self._session.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._session.device))
        return self._meters[rank].peak + self._ranks[rank].held_bytes()

    def logits(self) -> Float[Tensor, "node class"] | None:
        """Return exact scores in the graph's order, at rank 0."""
        gathered = self._fleet.run(lambda end: self._ranks[end.rank].logits())[0]
        if gathered is None:
            return None
        scores = torch.empty(self._data.num_nodes, gathered[0].shape[1], dtype=gathered[0].dtype)
        for part, rows in enumerate(gathered):
            scores[self._partition.members(part)] = rows.cpu()
        return scores

    # ---------------------------------------------------------------------------------- to resume

    def weights(self) -> dict[str, Tensor] | None:
        """Return rank 0's weights, which are every rank's."""
        if not self._fleet.holds_first:
            return None
        plan = self._ranks[0].plan
        return {name: value.cpu().clone() for name, value in plan.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state: equal on all ranks, so one of this process's."""
        rank = next(iter(self._ranks.values()))
        return optimizer_tensors(rank.optimizer, rank.names)

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on from weights and optimizer state, on every local rank."""
        for rank in self._ranks.values():
            rank.plan.load_state_dict(dict(weights))
            restore_optimizer(rank.optimizer, rank.names, state)

    def identity(self) -> dict[str, str | int]:
        """Return method and ways; the parts may differ, since results do not depend on them."""
        return {"training": "graph_parallel", "training.ways": self._fleet.size}

    # ------------------------------------------------------------------------------------- report

    @property
    def bytes_formula(self) -> int:
        """Bytes that an epoch should send, all ranks together (the source's section 3)."""
        widths = self._plan.aggregated_widths
        summed = sum(widths[1:] if self._plan.first_reads_features else widths)
        size = torch.empty((), dtype=self._session.dtype).element_size()
        weights = 2 * (self._fleet.size - 1) * self._plan.num_parameters()
        return (2 * self._boundary * summed + weights) * size

    def facts(self) -> dict[str, float | int | str | None]:
        """Return the formula's bytes, the partition's figures, the largest rank's memory."""
        return {
            "bytes_formula": self.bytes_formula,
            "peak_memory_bytes": max(self._peaks),
            "partition": self._partition.method,
            "boundary_rows": self._boundary,
            "imbalance_nodes": self._imbalance[0],
            "imbalance_edges": self._imbalance[1],
        }

    def exchange(self, note: str) -> list[str]:
        """Return every process's note."""
        return self._fleet.exchange(note)

    def close(self) -> None:
        """Leave the group, with the trained weights in the caller's plan."""
        trained = next(iter(self._ranks.values())).plan
        self._plan.load_state_dict(trained.state_dict())
        self._fleet.close()


def build(
    settings: GraphParallelConfig, plan: LayerPlan, data: GraphData, session: Session
) -> GraphParallelTraining:
    """Return graph-parallel training.

    Raises:
        UserError: a layer whose statistics are over all vertices, ways that are not torchrun's
            ranks, ranks that disagree.
    """
    if plan.mixes_vertices:
        raise UserError(
            f"{plan.mixes_vertices} takes statistics over all vertices, and each device has a part",
            setting="training",
            value="graph_parallel",
            remedy="use LayerNorm over features, or training=plain",
        )
    ways = settings.ways or (session.world if session.world > 1 else _IN_ONE_PROCESS)
    edges = data.edge_index
    fleet = open_fleet(settings.transport, ways, session, "training.ways")
    partition = best_partition(settings.partition, edges, data.num_nodes, ways)
    fleet.agree(
        {
            **agreed_facts(plan, data, session),
            "training": "graph_parallel",
            "training.ways": settings.ways,
            "training.partition": partition.digest,
        }
    )
    return GraphParallelTraining(plan, data, session, partition, fleet)


def _own(plan: LayerPlan, fleet: Fleet) -> LayerPlan:
    """Return the plan itself for a rank that is a process, a copy for one of several in it."""
    return plan if len(fleet.local) == 1 else copy.deepcopy(plan)
