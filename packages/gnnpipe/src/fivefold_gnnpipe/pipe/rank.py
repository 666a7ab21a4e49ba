"""One rank of a pipeline: fill, drain, sum weight gradients, step (the source's section 4.1).

What a chunk's turn does is in `chunked.py`, and in `whole.py` for the graph as one chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.gradients import sum_gradients
from ..engine.graph import GraphData
from ..engine.loss import node_loss, num_terms
from ..engine.memory import held_bytes
from ..engine.optimizer import clip_by_norm, make_optimizer, square_sum, state_tensors
from ..engine.plan import Masks
from ..engine.training import Session
from ..engine.transport import Pending, Program, Traffic, Transport, ring_all_reduce
from .chunks import WayTable
from .config import GNNPipeConfig
from .part import StagePart
from .schedule import chunk_order

_REPLICA = 1 << 14
"""Tags between those of two replicas of a sweep."""


@dataclass(frozen=True)
class Stay:
    """A chunk's stay in a stage, by the rank's clock in seconds."""

    rank: int
    """The rank."""
    backward: bool
    """Whether it was on its way back."""
    chunk: int
    """The chunk, or the replica of a sweep."""
    begin: float
    """When it had arrived."""
    end: float
    """When it was sent on."""


class PipeRank(ABC):
    """A stage's weights, buffers and optimizer, in one of its ways."""

    def __init__(
        self,
        part: StagePart,
        table: WayTable,
        data: GraphData,
        transport: Transport,
        session: Session,
        settings: GNNPipeConfig,
        replica: int = 0,
    ) -> None:
        self.part, self.table, self.settings = part, table, settings
        self.options, self.replica = session.options, replica
        self.device, self.dtype = session.device, session.dtype
        self.wire = transport
        self.plan = part.plan.to(session.device, session.dtype)
        self.parameters = part.named_parameters()
        self.names = {parameter: name for name, parameter in self.parameters.items()}
        self.optimizer = make_optimizer(session.options, self.parameters.values())
        own = table.vertices.cpu()
        self.x = data.x[own].to(session.device, session.dtype) if part.has_encoder else None
        self.y = data.y[own].to(session.device) if part.is_last else None
        self.mask = data.train_mask[own].to(session.device) if part.is_last else None
        self.num_terms = num_terms(data)
        self.masks = Masks(self.plan.dropout, session.options.seed, 0)
        self.order: list[int] = []
        self.loss = torch.zeros((), dtype=session.dtype, device=session.device)
        self.stays: list[Stay] = []
        self.epoch = 0
        self.reports = False
        """Whether staleness is measured in this epoch."""

    # ------------------------------------------------------------------------ one chunk's turn

    @abstractmethod
    def begin(self) -> Program[None]:
        """Do what comes before the first chunk of an epoch."""

    @abstractmethod
    def forward_chunk(self, turn: int, carried: Tensor | None) -> Program[Tensor]:
        """Run the stage's layers on the chunk whose turn it is.

        Args:
            turn: which of the epoch's turns.
            carried: what the stage before sent; nothing at the first.

        Returns:
            What the next stage is sent.
        """

    @abstractmethod
    def backward_chunk(self, turn: int, gradient: Tensor | None) -> Program[Tensor | None]:
        """Take the chunk back through the layers.

        Args:
            turn: which of the epoch's turns.
            gradient: of what was sent forward; nothing at the last stage, which has the loss.

        Returns:
            What the stage before is sent; nothing at the first.
        """

    @abstractmethod
    def finish(self) -> Program[None]:
        """Do what comes after the last chunk, before weight gradients are summed."""

    @abstractmethod
    def logits(self, *, keeps: bool = False) -> Program[Tensor | None]:
        """Return the exact scores of the way's own vertices at the last stage.

        Args:
            keeps: whether prepared rows become the history (a warm start).
        """

    def after_step(self, reports: bool) -> None:
        """Do what comes after the step: measure staleness if `reports`, refresh the history."""
        return

    def refresh(self) -> None:
        """Let this epoch's rows be the history, where there is one."""
        return

    # ------------------------------------------------------------------------------------ an epoch

    def start(self, epoch: int) -> None:
        """Set what all chunks of an epoch have in common."""
        self.plan.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.epoch = epoch
        self.masks = Masks(self.plan.dropout, self.options.seed, epoch)
        self.order = chunk_order(
            self.options.seed, epoch, self.table.num_slots, shuffle=self.settings.shuffle
        )
        self.loss = torch.zeros_like(self.loss)
        self.stays.clear()

    def run_epoch(self, epoch: int, reports: bool) -> Program[None]:
        """Train for one epoch."""
        self.start(epoch)
        self.reports = reports
        yield from self.begin()
        yield from self._fill()
        yield from self._drain()
        yield from self.finish()
        yield from self.step()
        self.after_step(reports)

    def _fill(self) -> Program[None]:
        turns = range(len(self.order))
        arrival = self.expect_forward(0)
        for turn in turns:
            carried = None
            if arrival is not None:
                carried = yield arrival
            arrival = self.expect_forward(turn + 1) if turn + 1 < len(turns) else None
            yield from self.forward_turn(turn, carried)

    def _drain(self) -> Program[None]:
        last = len(self.order) - 1
        arrival = self.expect_backward(last)
        for turn in range(last, -1, -1):
            gradient = None
            if arrival is not None:
                gradient = yield arrival
            arrival = self.expect_backward(turn - 1) if turn else None
            yield from self.backward_turn(turn, gradient)

    def expect_forward(self, turn: int) -> Pending | None:
        """Post the receive of a chunk from the stage before."""
        return self._expect(turn, self.part.in_columns, -1, Traffic.ACTIVATION)

    def expect_backward(self, turn: int) -> Pending | None:
        """Post the receive of a chunk's gradient from the stage after."""
        return self._expect(turn, self.part.out_columns, 1, Traffic.GRADIENT)

    def forward_turn(self, turn: int, carried: Tensor | None) -> Program[None]:
        """Take a chunk through the stage and send it on."""
        begin = self.wire.now()
        rows = yield from self.forward_chunk(turn, carried)
        if not self.part.is_last:
            after = self.wire.rank + self.part.ways
            self.wire.send(rows.detach(), after, Traffic.ACTIVATION, self._tag(turn))
        self._stay(turn, begin, backward=False)

    def backward_turn(self, turn: int, gradient: Tensor | None) -> Program[None]:
        """Take a chunk back through the stage and send its gradient on."""
        begin = self.wire.now()
        rows = yield from self.backward_chunk(turn, gradient)
        if not self.part.is_first:
            assert rows is not None
            before = self.wire.rank - self.part.ways
            self.wire.send(rows, before, Traffic.GRADIENT, self._tag(turn))
        self._stay(turn, begin, backward=True)

    def step(self) -> Program[None]:
        """Sum weight gradients over the ranks that share weights, clip, step."""
        yield from self._sum_gradients()
        if self.options.clip_norm > 0:
            squares = yield from self._norm_of_all()
            clip_by_norm(self.parameters.values(), self.options.clip_norm, squares)
        self.optimizer.step()

    # ---------------------------------------------------------------------------------------- loss

    def learn(self, h: Tensor, index: Tensor | None, ids: Tensor) -> Tensor:
        """Return the gradient of the loss of some rows, whose head is trained on the way.

        Args:
            h: the last carried rows, a leaf.
            index: where they stand among the way's own vertices; all when not given.
            ids: their vertices.
        """
        loss = self.loss_of(h, index, ids)
        loss.backward()
        self.loss += loss.detach()
        assert h.grad is not None
        return h.grad

    def loss_of(self, h: Tensor, index: Tensor | None, ids: Tensor) -> Tensor:
        """Return the share of the graph's loss that some rows have."""
        assert self.y is not None
        assert self.mask is not None
        y, mask = (self.y, self.mask) if index is None else (self.y[index], self.mask[index])
        logits = self.plan.readout(h, ids, self.masks)
        return node_loss(logits, y, mask, self.num_terms)

    # ------------------------------------------------------------------------------------- sums

    def _sum_gradients(self) -> Program[None]:
        shared = self.part.encoder_names()
        own = [p for name, p in self.parameters.items() if name not in shared]
        yield from sum_gradients(self.wire, own, self.part.peers, Traffic.WEIGHT)
        copies = [p for name, p in self.parameters.items() if name in shared]
        yield from sum_gradients(self.wire, copies, range(self.wire.size), Traffic.INITIAL)

    def _norm_of_all(self) -> Program[Tensor]:
        """Return the sum of squares of all gradients, each weight counted once."""
        copied = set() if self.part.is_first else self.part.encoder_names()
        own = [p for name, p in self.parameters.items() if name not in copied]
        squares = square_sum(own).reshape(1)
        column = range(self.part.way, self.wire.size, self.part.ways)
        total = yield from ring_all_reduce(self.wire, squares, column, Traffic.EVALUATION)
        return total.reshape(())

    # ------------------------------------------------------------------------------------- odds

    @property
    def staleness(self) -> dict[int, tuple[float, float]]:
        """Squared distance of history and fresh rows, and square of the fresh, by layer."""
        return {}

    def held_bytes(self) -> int:
        """Return the bytes that are held between steps: weights, optimizer, features, labels."""
        rows = [rows for rows in (self.x, self.y) if rows is not None]
        return held_bytes([*self.parameters.values(), *state_tensors(self.optimizer), *rows])

    def buffers(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside weights and optimizer."""
        return {}

    def restore(self, buffers: dict[str, Tensor]) -> None:
        """Put back what `buffers` returned."""
        return

    def rows_of(self, turn: int) -> int:
        """Return the vertices of a turn's chunk."""
        return len(self.table.chunks[self.order[turn]].ids)

    def _expect(self, turn: int, columns: int, step: int, traffic: Traffic) -> Pending | None:
        is_end = self.part.is_first if step < 0 else self.part.is_last
        if is_end:
            return None
        shape, peer = (self.rows_of(turn), columns), self.wire.rank + step * self.part.ways
        return self.wire.post(shape, self.dtype, peer, traffic, self._tag(turn))

    def _tag(self, turn: int) -> int:
        return self.replica * _REPLICA + self.order[turn]

    def _stay(self, turn: int, begin: float, *, backward: bool) -> None:
        number = self.order[turn] if not self.replica else self.replica
        stay = Stay(self.wire.rank, backward, number, begin, self.wire.now())
        self.stays.append(stay)
