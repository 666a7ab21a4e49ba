"""A stage that takes one chunk after another, with the history of those still to come.

The push form of the source's section 4.2, for any convolution: a chunk reads the rows of its halo
as leaves of autograd; in the backward pass the gradient of each goes into its layer's buffer, from
which the chunk that owns the row takes it when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.graph import GraphData
from ..engine.plan import Block
from ..engine.training import Session
from ..engine.transport import Program, Transport
from .buffers import LayerBuffers
from .chunks import Chunk, Turn, WayTable, turns_of
from .config import Begin, FirstLayer, GNNPipeConfig, HistoryDropout, Mode
from .evaluation import exact_logits
from .exchange import return_gradients, share_rows
from .part import StagePart
from .rank import PipeRank
from .schedule import positions


@dataclass
class _Passage:
    """A chunk's way through one layer, as far as its backward pass needs it."""

    h: Tensor
    """Carried rows, a leaf."""
    stored: Tensor
    """What others read of them, made from `h` under autograd."""
    source: Tensor
    """What was read of the halo, a leaf."""
    out: Tensor
    """The next carried rows."""


@dataclass
class _Visit:
    """A chunk in this stage, from its forward turn to its backward turn."""

    trains: bool
    """Whether the carried rows it came with have a gradient."""
    initial: Tensor | None
    """Its initial embedding, a leaf, where layers read one."""
    encoded: Tensor | None
    """What the encoder made of this chunk alone, under autograd."""
    kept: dict[int, _Passage | Tensor | None]
    """By layer: its passage, or the carried rows to compute it again from."""
    last: Tensor | None = None
    """The carried rows it left with, where the head reads them."""


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
        self.is_frozen = settings.history.dropout is HistoryDropout.FROZEN
        reads_features = self.plan.first_reads_features
        is_fresh = settings.first_layer is FirstLayer.FRESH or self.plan.encoder is None
        self.has_prefix = part.is_first and is_fresh
        """Whether the first aggregation's rows are made for all chunks before the first turn."""
        self._first_is_constant = part.is_first and reads_features
        self.layers = {layer: self._buffers(layer) for layer in part.layers}
        remote = self.table.local[self.remote_place].cpu()
        if not self._first_is_constant:
            remote = remote[:0]
        self.remote_features = data.x[remote].to(self.device, self.dtype)
        """Features of other ways' vertices, where the first layer reads features: never sent."""
        self.turns: list[Turn] = []
        self.refreshed_at = 0
        self._visits: dict[int, _Visit] = {}
        self._encoded: Tensor | None = None
        self._encoded_leaf: Tensor | None = None
        self._encoded_gradient: Tensor | None = None
        self._prefix: Tensor | None = None
        self._staleness: dict[int, tuple[float, float]] = {}

    def _buffers(self, layer: int) -> LayerBuffers:
        is_exact = self.settings.mode is not Mode.STALE or (
            self.has_prefix and layer == self.part.layers.start
        )
        return LayerBuffers(
            len(self.table.local),
            self.plan.block(layer).in_width,
            self.dtype,
            self.device,
            history=None if is_exact else self.settings.history.dtype,
            has_gradient=not (self._first_is_constant and layer == 1),
        )

    # ------------------------------------------------------------------------ before the chunks

    def begin(self) -> Program[None]:
        """Encode all vertices where all are needed; warm the history before epoch 0."""
        if self.epoch == 0 and self.settings.history.init is Begin.WARM:
            yield from self.logits(keeps=True)
            self.plan.train()
        self.turns = turns_of(self.table, positions(self.order))
        if self.has_prefix or self.part.recomputes_initial:
            assert self.x is not None
            self._encoded = self.plan.encode(self.x, self.table.vertices, self.masks)
            trains = self._encoded.requires_grad
            self._encoded_leaf = self._encoded.detach().requires_grad_(trains)
            self._encoded_gradient = torch.zeros_like(self._encoded) if trains else None
        if self.has_prefix:
            yield from self._make_prefix()

    def _make_prefix(self) -> Program[None]:
        """Fill the first layer's buffer with fresh rows of all chunks."""
        assert self._encoded_leaf is not None
        buffers = self.layers[1]
        self._prefix = self._stored(1, self._encoded_leaf, self.table.vertices)
        buffers.write(self.table.own_place, self._prefix.detach())
        if not self._first_is_constant:
            for slot in range(self.table.num_slots):
                yield from share_rows(self, buffers.fresh, slot, 1)
        elif len(self.remote_features):
            buffers.write(self.remote_place, self.remote_features)

    # -------------------------------------------------------------------------- a chunk's turn

    def forward_chunk(self, turn: int, carried: Tensor | None) -> Program[Tensor]:
        """Take the chunk through the layers; later chunks' rows come from the history."""
        chunk = self.table.chunks[self.order[turn]]
        h, visit = self._enter(chunk, carried)
        for layer in self.part.layers:
            h = yield from self._forward_layer(layer, chunk, visit, h)
        visit.last = h if self.part.is_last else None
        self._visits[turn] = visit
        if self.part.initial_width and visit.initial is not None:
            return torch.cat([h.detach(), visit.initial.detach()], dim=1)
        return h

    def _enter(self, chunk: Chunk, carried: Tensor | None) -> tuple[Tensor, _Visit]:
        """Return the chunk's first carried rows and initial embedding, as leaves."""
        part, encoded, initial = self.part, None, None
        if carried is not None:
            width = carried.shape[1] - part.initial_width
            first = carried[:, :width].detach().requires_grad_()
            if part.initial_width:
                initial = carried[:, width:].detach().requires_grad_()
        elif self.has_prefix:
            assert self._encoded_leaf is not None
            rows = self._encoded_leaf.detach()[chunk.index]
            first = rows.requires_grad_(self._encoded_leaf.requires_grad)
        else:
            assert self.x is not None
            encoded = self.plan.encode(self.x[chunk.index], chunk.ids, self.masks)
            first = encoded.detach().requires_grad_()
        if self.plan.initial and initial is None:
            if self._encoded_leaf is not None:
                initial = self._encoded_leaf.detach()[chunk.index].requires_grad_()
            else:
                initial = first.detach().requires_grad_()
        return first, _Visit(first.requires_grad, initial, encoded, {})

    def _forward_layer(self, layer: int, chunk: Chunk, visit: _Visit, h: Tensor) -> Program[Tensor]:
        buffers = self.layers[layer]
        if not self._is_prefix(layer):
            with torch.set_grad_enabled(not self.settings.recompute):
                stored = self._stored(layer, h, chunk.ids)
            buffers.write(chunk.place, stored.detach())
            yield from share_rows(self, buffers.fresh, chunk.slot, layer)
        else:
            stored = h
        with torch.set_grad_enabled(not self.settings.recompute):
            passage = self._pass(layer, chunk, visit, h, stored)
        if not self.settings.recompute:
            visit.kept[layer] = passage
        else:
            visit.kept[layer] = None if self._is_in_buffer(layer) else h.detach()
        return passage.out.detach().requires_grad_()

    def _pass(self, layer: int, chunk: Chunk, visit: _Visit, h: Tensor, stored: Tensor) -> _Passage:
        """Read the halo and update the chunk's rows."""
        buffers, turn = self.layers[layer], self.turns[chunk.slot]
        source = buffers.read(chunk, turn).requires_grad_(buffers.gradient is not None)
        rows = source if self.is_frozen else self.masks.drop(layer, source, chunk.halo)
        block = self.plan.block(layer)
        out = block.update(rows, rows.index_select(0, chunk.own), h, chunk.edges, visit.initial)
        return _Passage(h, stored, source, out)

    def backward_chunk(self, turn: int, gradient: Tensor | None) -> Program[Tensor | None]:
        """Take the chunk back: its own gradient is whole, since all that read it came later."""
        chunk, visit = self.table.chunks[self.order[turn]], self._visits.pop(turn)
        beside: Tensor | None = None
        if gradient is None:
            assert visit.last is not None
            gradient = self.learn(visit.last, chunk.index, chunk.ids)
        elif self.part.initial_width:
            width = gradient.shape[1] - self.part.initial_width
            gradient, beside = gradient[:, :width], gradient[:, width:]
        for layer in reversed(self.part.layers):
            gradient = yield from self._backward_layer(layer, chunk, visit, gradient)
        return self._leave(chunk, visit, gradient, beside)

    def _backward_layer(
        self, layer: int, chunk: Chunk, visit: _Visit, gradient: Tensor
    ) -> Program[Tensor]:
        passage = self._passage(layer, chunk, visit)
        passage.out.backward(gradient)
        buffers, turn = self.layers[layer], self.turns[chunk.slot]
        if passage.source.grad is not None:
            crossing = self.settings.cross_gradient
            buffers.push(chunk, turn, passage.source.grad, crossing)
        if self._is_prefix(layer):
            grown = passage.h.grad
            return torch.zeros_like(passage.h) if grown is None else grown
        assert buffers.gradient is not None
        yield from return_gradients(self, buffers.gradient, chunk.slot, layer)
        taken = buffers.take_gradient(chunk.place)
        if passage.stored is passage.h:
            return taken if passage.h.grad is None else taken.add_(passage.h.grad)
        passage.stored.backward(taken)
        assert passage.h.grad is not None
        return passage.h.grad

    def _passage(self, layer: int, chunk: Chunk, visit: _Visit) -> _Passage:
        """Return what was kept of a layer, or compute it again of the same rows."""
        kept = visit.kept.pop(layer)
        if isinstance(kept, _Passage):
            return kept
        h = self.layers[layer].fresh[chunk.place] if kept is None else kept
        h = h.detach().requires_grad_(visit.trains or layer > self.part.layers.start)
        stored = h if self._is_prefix(layer) else self._stored(layer, h, chunk.ids)
        return self._pass(layer, chunk, visit, h, stored)

    def _leave(
        self, chunk: Chunk, visit: _Visit, gradient: Tensor, beside: Tensor | None
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
        if self.has_prefix and not self._first_is_constant and gradient is not None:
            yield from self._finish_prefix(gradient)
        elif self.has_prefix and self._prefix is not None and self._prefix.requires_grad:
            yield from self._finish_prefix(None)
        if gradient is not None and self._encoded is not None:
            self._encoded.backward(gradient)
        self._encoded = self._encoded_leaf = self._encoded_gradient = self._prefix = None

    def _finish_prefix(self, gradient: Tensor | None) -> Program[None]:
        """Add what the first layer's neighbours say of the encoder's rows."""
        buffers, leaf, prefix = self.layers[1], self._encoded_leaf, self._prefix
        assert buffers.gradient is not None
        assert prefix is not None
        assert leaf is not None
        for slot in range(self.table.num_slots):
            yield from return_gradients(self, buffers.gradient, slot, 1)
        taken = buffers.take_gradient(self.table.own_place)
        if prefix is not leaf:
            prefix.backward(taken)
            taken = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        if gradient is not None:
            gradient.add_(taken)

    def after_step(self, reports: bool) -> None:
        """Measure staleness where it is reported, and refresh the history at a period's end."""
        is_due = (self.epoch + 1) % self.settings.history.refresh == 0
        self._staleness = {}
        if reports and self.settings.mode is Mode.STALE:
            for layer, buffers in self.layers.items():
                far, size = buffers.staleness()
                self._staleness[layer] = (float(far), float(size))
        if is_due:
            self.refresh()

    def refresh(self) -> None:
        """Let this epoch's rows be the history."""
        for buffers in self.layers.values():
            buffers.refresh()
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
            f"history/{layer}": buffers.history.cpu().clone()
            for layer, buffers in self.layers.items()
            if buffers.history is not None
        }
        return kept | {"refreshed_at": torch.tensor(self.refreshed_at)}

    def restore(self, buffers: dict[str, Tensor]) -> None:
        """Put the history back."""
        self.refreshed_at = int(buffers["refreshed_at"])
        for layer, mine in self.layers.items():
            if mine.history is not None:
                mine.history.copy_(buffers[f"history/{layer}"])

    def held_bytes(self) -> int:
        """Return the bytes held between steps, buffers included."""
        kept = 0
        for buffers in self.layers.values():
            for rows in (buffers.fresh, buffers.history, buffers.gradient):
                kept += 0 if rows is None else rows.numel() * rows.element_size()
        return super().held_bytes() + kept

    @property
    def remote_place(self) -> Tensor:
        """Where the buffers keep rows of other ways."""
        own = torch.zeros(len(self.table.local), dtype=torch.bool, device=self.device)
        own[self.table.own_place] = True
        return torch.nonzero(~own).flatten()

    def reads_remote_features(self, layer: int) -> bool:
        """Whether a layer reads features, of which it holds a copy."""
        return layer == 1 and self._first_is_constant

    def _stored(self, layer: int, h: Tensor, ids: Tensor) -> Tensor:
        """Return what others read of carried rows: before dropout, unless masks are frozen."""
        prepared = self._block(layer).prepare(h)
        return self.masks.drop(layer, prepared, ids) if self.is_frozen else prepared

    def _block(self, layer: int) -> Block:
        return self.plan.block(layer)

    def _is_prefix(self, layer: int) -> bool:
        return self.has_prefix and layer == 1

    def _is_in_buffer(self, layer: int) -> bool:
        """Whether the carried rows can be read back of the layer's buffer."""
        is_plain = type(self._block(layer)).prepare is Block.prepare
        return is_plain and not self.is_frozen
