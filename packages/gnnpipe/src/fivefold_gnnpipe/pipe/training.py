"""`training=gnnpipe` as a method: the grid of ranks, and the protocol that the loop calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor

from ..engine.fleet import Fleet
from ..engine.graph import GraphData
from ..engine.memory import PeakBytes, metered
from ..engine.metrics import score
from ..engine.optimizer import optimizer_tensors, restore_optimizer
from ..engine.plan import LayerPlan
from ..engine.reporting import Gathered, gather, mark
from ..engine.training import EpochReport, Session
from ..engine.transport import Program, Traffic, Transport
from .config import GNNPipeConfig, Mode
from .rank import PipeRank, Stay
from .reporting import distances, said_by, stays
from .setup import Layout, flat_settings
from .volume import utilisation

_STUCK = 0.98
"""Share of the loss of guessing by frequency above which nothing has been learnt."""
_PATIENCE = 40
"""Epochs without progress that are borne however short a period is: two of the default."""


class GNNPipeTraining:
    """A network over S stages of W ways, each rank with its part of every replica.

    Attributes:
        stays: when which chunk was in which stage, of the last epoch.
    """

    def __init__(
        self,
        plan: LayerPlan,
        data: GraphData,
        session: Session,
        settings: GNNPipeConfig,
        layout: Layout,
        fleet: Fleet,
        ranks: Mapping[int, list[PipeRank]],
    ) -> None:
        self._plan, self._data, self._session = plan, data, session
        self._settings, self._layout, self._fleet = settings, layout, fleet
        self._ranks = dict(ranks)
        self._meters = {rank: PeakBytes() for rank in ranks}
        self._is_metered = session.device.type == "cpu"
        self._peaks: list[int] = [0] * fleet.size
        self._stuck = 0
        self._chosen = 0
        self._scores: dict[str, float | int | str | None] = {}
        self.stays: list[Stay] = []

    # ----------------------------------------------------------------------------------- training

    def epoch(self, index: int) -> EpochReport:
        """Fill and drain the pipeline, then one optimizer step.

        Raises:
            UserError: the stale loss stays where guessing by frequency is.
        """
        is_last = index + 1 == self._session.options.epochs
        is_evaluated = is_last or (index + 1) % self._session.options.eval_every == 0
        wants = self._settings.staleness and is_evaluated
        limit = self._settings.history.auto_refresh
        meters = self._meters if self._is_metered else {}
        self._is_metered = False

        def program(end: Transport) -> Program[Gathered]:
            return self._epoch(end, index, wants or limit is not None, meters.get(end.rank))

        found, num_blocks = self._fleet.run(program)[0], self._plan.num_blocks
        self.stays, self._peaks = stays(found.more, num_blocks), found.peaks
        stale = distances(found.more, num_blocks)
        if limit is not None and max(stale, default=0.0) > limit:
            self._refresh()
        if wants:
            found.report.staleness = stale
        self._require_progress(found.report.loss)
        return found.report

    def _epoch(
        self, end: Transport, index: int, reports: bool, meter: PeakBytes | None
    ) -> Program[Gathered]:
        ranks, begun = self._ranks[end.rank], mark(end)
        work = _work(ranks, index, reports)
        yield from (work if meter is None else metered(work, meter))
        end.flush()
        loss = sum(float(rank.loss) for rank in ranks) / len(ranks)
        said = said_by(ranks, self._plan.num_blocks)
        return (yield from gather(end, begun, loss, self._peak(end.rank), said))

    def _peak(self, rank: int) -> int:
        if self._session.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._session.device))
        held = sum(replica.held_bytes() for replica in self._ranks[rank])
        return self._meters[rank].peak + held + self._layout.edge_bytes

    def _refresh(self) -> None:
        for replicas in self._ranks.values():
            for rank in replicas:
                rank.refresh()

    def _require_progress(self, loss: float) -> None:
        """Stop a stale run that learns nothing for two periods."""
        if self._settings.mode is not Mode.STALE:
            return
        self._stuck = self._stuck + 1 if loss > _STUCK * self._layout.guessing else 0
        if self._stuck > max(2 * self._settings.history.refresh, _PATIENCE):
            raise UserError(
                f"for {self._stuck} epochs the loss has stayed at {loss:.3f}, where guessing by "
                f"frequency is",
                setting="training.mode",
                value=self._settings.mode.value,
                remedy="choose model=gcnii or model=resgcn for depth, or training.mode=exact",
            )

    # --------------------------------------------------------------------------------- evaluation

    def logits(self) -> Float[Tensor, "node class"] | None:
        """Return exact scores in the graph's order, at rank 0; of a sweep, the best replica's."""
        count = self._settings.num_replicas
        found = [self._logits_of(replica) for replica in range(count)]
        if found[0] is None or count == 1:
            return found[0]
        return self._best_of([logits for logits in found if logits is not None])

    def _best_of(self, found: list[Tensor]) -> Tensor:
        best, place = float("-inf"), 0
        for replica, logits in enumerate(found):
            scores = score(logits, self._data)
            options = self._ranks[0][replica].options
            name = f"replica_{replica}_seed_{options.seed}_lr_{options.lr:g}"
            self._scores |= {f"{name}_val": scores.val, f"{name}_test": scores.test}
            if scores.val is not None and scores.val > best:
                best, place = scores.val, replica
        self._chosen = place
        return found[place]

    def _logits_of(self, replica: int) -> Tensor | None:
        def program(end: Transport) -> Program[list[Tensor] | None]:
            return self._collect(end, self._ranks[end.rank][replica])

        parts = self._fleet.run(program)[0]
        if parts is None:
            return None
        scores = torch.empty(self._data.num_nodes, parts[0].shape[1], dtype=parts[0].dtype)
        for way, rows in enumerate(parts):
            scores[self._layout.way_members(way)] = rows.cpu()
        return scores

    def _collect(self, end: Transport, rank: PipeRank) -> Program[list[Tensor] | None]:
        """Bring the last stage's scores to rank 0, in order of ways."""
        scores = yield from rank.logits()
        part, last = rank.part, self._fleet.size - rank.part.ways
        if end.rank:
            if scores is not None:
                end.send(scores, 0, Traffic.EVALUATION, _SCORES)
            return None
        width = self._layout.num_classes
        parts = []
        for way in range(part.ways):
            if last + way == 0:
                assert scores is not None
                parts.append(scores)
                continue
            shape = (len(self._layout.way_members(way)), width)
            rows = yield end.post(shape, rank.dtype, last + way, Traffic.EVALUATION, _SCORES)
            parts.append(rows)
        return parts

    # ---------------------------------------------------------------------------------- to resume

    def weights(self) -> dict[str, Tensor] | None:
        """Return the whole plan's weights at rank 0; of a sweep, the best replica's."""
        found = self._fleet.run(self._gather_weights)[0]
        return found if self._fleet.holds_first else None

    def _gather_weights(self, end: Transport) -> Program[dict[str, Tensor] | None]:
        chosen = self._chosen if end.rank == 0 else 0
        ways = self._settings.ways
        if end.rank % ways:
            return None
        wanted = yield from self._choice(end, chosen)
        own = {k: v.cpu() for k, v in self._ranks[end.rank][wanted].part.owned_state().items()}
        if end.rank:
            for place, value in enumerate(own.values()):
                end.send(value, 0, Traffic.EVALUATION, _WEIGHTS + place)
            return None
        whole = {name: value.clone() for name, value in own.items()}
        for stage in range(1, self._settings.stages):
            part = self._layout.part(self._plan, stage, 0)
            for place, (name, like) in enumerate(part.owned_state().items()):
                pending = end.post(
                    like.shape, like.dtype, stage * ways, Traffic.EVALUATION, _WEIGHTS + place
                )
                received = yield pending
                whole[name] = received.cpu()
        return whole

    def _choice(self, end: Transport, chosen: int) -> Program[int]:
        """Return rank 0's choice of a replica on every stage's first rank."""
        if self._settings.num_replicas == 1:
            return 0
        ways = self._settings.ways
        if end.rank == 0:
            for stage in range(1, self._settings.stages):
                note = torch.tensor([chosen])
                end.send(note, stage * ways, Traffic.EVALUATION, _CHOICE)
            return chosen
        note = yield end.post((1,), torch.int64, 0, Traffic.EVALUATION, _CHOICE)
        return int(note)

    def state(self) -> dict[str, Tensor]:
        """Return optimizer, history and the count of idle epochs of this process's ranks."""
        found = {"stuck": torch.tensor(self._stuck)}
        for number, replicas in self._ranks.items():
            for place, rank in enumerate(replicas):
                kept = optimizer_tensors(rank.optimizer, rank.names) | rank.buffers()
                if len(replicas) > 1:  # a state's weights are those of one replica
                    kept |= {f"weights/{k}": v for k, v in rank.part.owned_state().items()}
                    kept |= {f"weights/{k}": v.detach() for k, v in rank.parameters.items()}
                found |= {f"{number}/{place}/{name}": value for name, value in kept.items()}
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on from weights, optimizer and history."""
        self._stuck = int(state["stuck"])
        for number, replicas in self._ranks.items():
            for place, rank in enumerate(replicas):
                prefix = f"{number}/{place}/"
                own = {
                    name.removeprefix(prefix): value
                    for name, value in state.items()
                    if name.startswith(prefix)
                }
                mine = {k[8:]: v for k, v in own.items() if k.startswith("weights/")}
                rank.plan.load_state_dict({**weights, **mine})
                restore_optimizer(rank.optimizer, rank.names, own)
                rank.restore(own)

    def identity(self) -> dict[str, str | int]:
        """Return what a resumed run must have alike: whatever decides the numbers."""
        return {
            **{
                f"training.{name}": str(value)
                for name, value in flat_settings(self._settings).items()
                if name != "staleness" and not name.startswith("partition.")
            },
            "training": "gnnpipe",
            "training.chunks": self._settings.num_chunks,
            "training.cuts": str(self._layout.cuts).replace(" ", ""),
            "training.partition": self._layout.partition.digest,
        }

    # ------------------------------------------------------------------------------------- report

    def facts(self) -> dict[str, float | int | str | None]:
        """Return the formula's bytes, memory by stage, where layers are cut, what is idle."""
        settings, layout = self._settings, self._layout
        slots = layout.num_slots * settings.num_replicas
        found: dict[str, float | int | str | None] = {
            "bytes_formula": layout.bytes_formula * settings.num_replicas,
            "peak_memory_bytes": max(self._peaks),
            "cuts": str(layout.cuts),
            "chunks": settings.num_chunks,
            "partition": layout.partition.method,
            "cross_chunk_edges": layout.cross_share,
            "utilisation_by_schedule": utilisation(slots, settings.stages),
        }
        if self.stays:
            found["utilisation_measured"] = self._busy()
        for rank, peak in enumerate(self._peaks):
            found[f"peak_memory_bytes_rank_{rank}"] = peak
        if settings.mode is Mode.STALE:
            ages = [getattr(rank, "refreshed_at", 0) for rank in next(iter(self._ranks.values()))]
            found["history_refreshed_at_epoch"] = max(ages)
        return found | self._scores

    def _busy(self) -> float:
        """Return the share of the last epoch that ranks spent on chunks."""
        begin, end = min(s.begin for s in self.stays), max(s.end for s in self.stays)
        busy = sum(stay.end - stay.begin for stay in self.stays)
        return busy / (self._fleet.size * (end - begin)) if end > begin else 1.0

    def draw(self, folder: Path) -> None:
        """Draw which chunk was in which stage when, of the last epoch."""
        from .timeline_plot import draw_timeline

        draw_timeline(self.stays, folder / "timeline.png", is_simulated=self._fleet.is_simulated)

    def exchange(self, note: str) -> list[str]:
        """Return every process's note."""
        return self._fleet.exchange(note)

    def close(self) -> None:
        """Leave the group, with the trained weights in the caller's plan where all are here."""
        if len(self._ranks) == self._fleet.size:
            whole = {
                name: value
                for replicas in self._ranks.values()
                for name, value in replicas[self._chosen].part.owned_state().items()
            }
            self._plan.load_state_dict(whole)
        self._fleet.close()


_SCORES, _WEIGHTS, _CHOICE = 1 << 19, 1 << 17, 1 << 16
"""Tags of what is brought to rank 0 outside of an epoch."""


def _work(ranks: list[PipeRank], index: int, reports: bool) -> Program[None]:
    """Train one epoch: of one model, or of all replicas of a sweep, one behind the other."""
    if len(ranks) == 1:
        yield from ranks[0].run_epoch(index, reports)
        return
    for rank in ranks:
        rank.start(index)
        yield from rank.begin()
    arrivals = [rank.expect_forward(0) for rank in ranks]
    for rank, arrival in zip(ranks, arrivals, strict=True):
        carried = None
        if arrival is not None:
            carried = yield arrival
        yield from rank.forward_turn(0, carried)
    arrivals = [rank.expect_backward(0) for rank in ranks]
    for rank, arrival in zip(reversed(ranks), reversed(arrivals), strict=True):
        gradient = None
        if arrival is not None:
            gradient = yield arrival
        yield from rank.backward_turn(0, gradient)
    for rank in ranks:
        yield from rank.finish()
        yield from rank.step()
        rank.after_step(reports)
