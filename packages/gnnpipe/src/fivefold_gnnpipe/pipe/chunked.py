"""A stage that takes one chunk after another, with the history of those still to come.

How chunks read one another's rows is in `pull.py` and `push.py`; here is what surrounds it: how a
chunk enters and leaves the stage, the encoder, the head, the initial embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.graph import GraphData
from ..engine.plan import SparseBlock
from ..engine.training import Session
from ..engine.transport import Program, Transport
from .chunks import Chunk, Turn, WayTable, turns_of
from .config import Begin, FirstLayer, GNNPipeConfig, Mode
from .evaluation import exact_logits
from .layer import StageLayer, Visit
from .part import StagePart
from .pull import Matrices, PullLayer
from .push import PushLayer
from .rank import PipeRank
from .schedule import positions


class ChunkedRank(PipeRank):
    """One rank of `mode=stale`, and of several ways in `mode=exact`."""

    def __init__(
        self,
        part: StagePart,
        table: WayTable,
        data: GraphData,
        transport: Transport,
        session: Session,
        settings: GNNPipeConfig,
    ) -> None:
        super().__init__(part, table, data, transport, session, settings)
        reads_features = self.plan.first_reads_features
        is_fresh = settings.first_layer is FirstLayer.FRESH or self.plan.encoder is None
        self.has_prefix = part.is_first and is_fresh
        """Whether the first aggregation's rows are made for all chunks before the first turn."""
        self._first_is_constant = part.is_first and reads_features
        self.layers = self._make_layers()
        remote = table.local[table.remote_place].cpu()
        if not self._first_is_constant:
            remote = remote[:0]
        self.remote_features = data.x[remote].to(self.device, self.dtype)
        """Features of other ways' vertices, where the first layer reads features: never sent."""
        self.refreshed_at = 0
        self._turns: list[Turn] | None = None
        self._visits: dict[int, Visit] = {}
        self._encoded: Tensor | None = None
        self._leaf: Tensor | None = None
        self._encoded_gradient: Tensor | None = None
        self._staleness: dict[int, tuple[float, float]] = {}

    def _make_layers(self) -> dict[int, StageLayer]:
        """Pull where weights are fixed and everything is kept, push everywhere else."""
        pulls = {
            layer
            for layer in self.part.layers
            if isinstance(self.plan.block(layer), SparseBlock) and not self.settings.recompute
        }
        made: dict[int, StageLayer] = {}
        matrices = Matrices.of(self.table) if pulls else None
        for layer in self.part.layers:
            if matrices is not None and layer in pulls:
                made[layer] = PullLayer(self, layer, matrices)
            else:
                made[layer] = PushLayer(self, layer)
        return made

    @property
    def turns(self) -> list[Turn]:
        """What the chunks read in this epoch's order, by slot."""
        if self._turns is None:
            self._turns = turns_of(self.table, positions(self.order))
        return self._turns

    @property
    def ends_period(self) -> bool:
        """Whether this epoch's rows become the history."""
        return (self.epoch + 1) % self.settings.history.refresh == 0

    # ------------------------------------------------------------------------ before the chunks

    def begin(self) -> Program[None]:
        """Encode all vertices where all are needed; warm the history before epoch 0."""
        if self.epoch == 0 and self.settings.history.init is Begin.WARM:
            yield from self.logits(keeps=True)
            self.plan.train()
        self._turns = None
        for layer in self.layers.values():
            layer.open()
        if self.has_prefix or self.part.recomputes_initial:
            assert self.x is not None
            self._encoded = self.plan.encode(self.x, self.table.vertices, self.masks)
            trains = self._encoded.requires_grad
            self._leaf = self._encoded.detach().requires_grad_(trains)
            self._encoded_gradient = torch.zeros_like(self._encoded) if trains else None
        if self.has_prefix:
            assert self._leaf is not None
            yield from self.layers[1].fill(self._leaf)

    # -------------------------------------------------------------------------- a chunk's turn

    def forward_chunk(self, turn: int, carried: Tensor | None) -> Program[Tensor]:
        """Take the chunk through the layers; later chunks' rows come from the history."""
        chunk = self.table.chunks[self.order[turn]]
        h, visit = self._enter(chunk, carried)
        for layer in self.layers.values():
            h = yield from layer.forward(chunk, visit, h)
        visit.last = h if self.part.is_last else None
        self._visits[turn] = visit
        if self.part.initial_width and visit.initial is not None:
            return torch.cat([h.detach(), visit.initial.detach()], dim=1)
        return h

    def _enter(self, chunk: Chunk, carried: Tensor | None) -> tuple[Tensor, Visit]:
        """Return the chunk's first carried rows and initial embedding, as leaves."""
        part, encoded, initial = self.part, None, None
        if carried is not None:
            width = carried.shape[1] - part.initial_width
            first = carried[:, :width].detach().requires_grad_()
            if part.initial_width:
                initial = carried[:, width:].detach().requires_grad_()
        elif self.has_prefix:
            assert self._leaf is not None
            first = self._leaf.detach()[chunk.index].requires_grad_(self._leaf.requires_grad)
        else:
            assert self.x is not None
            encoded = self.plan.encode(self.x[chunk.index], chunk.ids, self.masks)
            first = encoded.detach().requires_grad_()
        if self.plan.initial and initial is None:
            if self._leaf is not None:
                initial = self._leaf.detach()[chunk.index].requires_grad_()
            else:
                initial = first.detach().requires_grad_()
        return first, Visit(first.requires_grad, initial, encoded)

    def backward_chunk(self, turn: int, gradient: Tensor | None) -> Program[Tensor | None]:
        """Take the chunk back: its own gradient is whole, since all that read it came later."""
        chunk, visit = self.table.chunks[self.order[turn]], self._visits.pop(turn)
        if turn + 1 == len(self.order):
            for layer in self.layers.values():
                layer.turn_round()
        beside: Tensor | None = None
        if gradient is None:
            assert visit.last is not None
            gradient = self.learn(visit.last, chunk.index, chunk.ids)
        elif self.part.initial_width:
            width = gradient.shape[1] - self.part.initial_width
            gradient, beside = gradient[:, :width], gradient[:, width:]
        for layer in reversed(self.layers.values()):
            gradient = yield from layer.backward(chunk, visit, gradient)
        return self._leave(chunk, visit, gradient, beside)

    def _leave(
        self, chunk: Chunk, visit: Visit, gradient: Tensor, beside: Tensor | None
    ) -> Tensor | None:
        """Return what the stage before is sent; the encoder's share stays here."""
        initial = visit.initial.grad if visit.initial is not None else None
        if self._encoded_gradient is not None:
            if self.has_prefix:
                self._encoded_gradient.index_add_(0, chunk.index, gradient)
            for more in (initial, beside if self.part.is_first else None):
                if more is not None:
                    self._encoded_gradient.index_add_(0, chunk.index, more)
        if visit.encoded is not None and visit.encoded.requires_grad:
            for more in (initial, beside):
                gradient = gradient if more is None else gradient + more
            visit.encoded.backward(gradient)
        if self.part.is_first:
            return None
        if not self.part.initial_width:
            return gradient
        assert visit.initial is not None
        total = torch.zeros_like(visit.initial) if initial is None else initial
        return torch.cat([gradient, total if beside is None else total + beside], dim=1)

    # ------------------------------------------------------------------------ after the chunks

    def finish(self) -> Program[None]:
        """Take the encoder back, for all vertices at once."""
        gradient = self._encoded_gradient
        if self.has_prefix:
            assert self._leaf is not None
            said = yield from self.layers[1].collect(self._leaf)
            if gradient is not None and said is not None:
                gradient.add_(said)
        if gradient is not None and self._encoded is not None:
            self._encoded.backward(gradient)
        self._encoded = self._leaf = self._encoded_gradient = None

    def after_step(self, reports: bool) -> None:
        """Measure staleness where it is reported, and refresh the history at a period's end."""
        self._staleness = {}
        if reports and self.settings.mode is Mode.STALE:
            self._staleness = {n: layer.staleness() for n, layer in self.layers.items()}
        if self.ends_period:
            self.refresh()

    def refresh(self) -> None:
        """Let this epoch's rows be the history; once an epoch, whoever asks."""
        if self.refreshed_at == self.epoch + 1:
            return
        for layer in self.layers.values():
            layer.refresh()
        self.refreshed_at = self.epoch + 1

    # -------------------------------------------------------------------------------- the rest

    def logits(self, *, keeps: bool = False) -> Program[Tensor | None]:
        """Return exact scores: layer by layer, all chunks of a layer before the next one."""
        return (yield from exact_logits(self, keeps=keeps))

    @property
    def staleness(self) -> dict[int, tuple[float, float]]:
        """Of the last epoch that reported it."""
        return self._staleness

    def buffers(self) -> dict[str, Tensor]:
        """Return the history and the epoch that it is of."""
        kept = {
            f"history/{number}": layer.history.cpu().clone()
            for number, layer in self.layers.items()
            if layer.history is not None
        }
        return kept | {"refreshed_at": torch.tensor(self.refreshed_at)}

    def restore(self, buffers: dict[str, Tensor]) -> None:
        """Put the history back."""
        self.refreshed_at = int(buffers["refreshed_at"])
        for number, layer in self.layers.items():
            if layer.history is not None:
                layer.history.copy_(buffers[f"history/{number}"])

    def held_bytes(self) -> int:
        """Return the bytes held between steps, those of layers included."""
        return super().held_bytes() + sum(layer.held_bytes() for layer in self.layers.values())

    def reads_remote_features(self, layer: int) -> bool:
        """Whether a layer reads features, of which it holds a copy."""
        return layer == 1 and self._first_is_constant
