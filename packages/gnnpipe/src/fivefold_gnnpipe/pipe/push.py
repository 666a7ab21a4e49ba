"""A layer in the push form (the source's section 4.2): for any convolution.

A chunk reads the rows of its halo as leaves of autograd; in the backward pass the gradient of each
goes into the layer's buffer, from which the chunk that owns the row takes it when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.plan import Block
from ..engine.transport import Program
from .buffers import LayerBuffers
from .chunks import Chunk
from .exchange import return_gradients, share_rows
from .history import require_finite, squares
from .layer import StageLayer, Visit

if TYPE_CHECKING:
    from .chunked import ChunkedRank


@dataclass
class _Passage:
    """A chunk's way through the layer, as far as its backward pass needs it."""

    h: Tensor
    """Carried rows, a leaf."""
    stored: Tensor
    """What others read of them, made from `h` under autograd."""
    source: Tensor
    """What was read of the halo, a leaf."""
    out: Tensor
    """The next carried rows."""


class PushLayer(StageLayer):
    """A layer whose chunks push gradients to the rows that they read."""

    def __init__(self, rank: ChunkedRank, number: int) -> None:
        super().__init__(rank, number)
        self.buffers = LayerBuffers(
            len(self.table.local),
            self.block.in_width,
            rank.dtype,
            rank.device,
            history=self.new_history(),
            has_gradient=not self.is_constant,
        )
        self._recomputes = rank.settings.recompute
        self._kept: dict[int, _Passage | Tensor | None] = {}
        self._root: Tensor | None = None

    # ---------------------------------------------------------------------------------- an epoch

    def open(self) -> None:
        """Rows of this epoch are written over those of the last one."""

    def fill(self, leaf: Tensor) -> Program[None]:
        """Write the rows of all chunks."""
        table, buffers = self.table, self.buffers
        self._root = self.stored(leaf, table.vertices)
        rows = self._root.detach()
        buffers.write(table.own_place, rows)
        if self.is_constant:
            remote = self.stored(self.rank.remote_features, table.local[table.remote_place])
            buffers.write(table.remote_place, remote)
            return
        for slot, chunk in enumerate(table.chunks):
            yield from self._share(rows[chunk.index], slot)

    def forward(self, chunk: Chunk, visit: Visit, h: Tensor) -> Program[Tensor]:
        """Write the chunk's rows, read its halo, update."""
        with torch.set_grad_enabled(not self._recomputes):
            stored = h if self.is_prefix else self.stored(h, chunk.ids)
        if not self.is_prefix:
            rows = stored.detach()
            self.buffers.write(chunk.place, rows)
            yield from self._share(rows, chunk.slot)
        with torch.set_grad_enabled(not self._recomputes):
            passage = self._pass(chunk, visit, h, stored)
        if not self._recomputes:
            self._kept[chunk.slot] = passage
        else:
            self._kept[chunk.slot] = None if self._is_in_buffer else h.detach()
        return passage.out.detach().requires_grad_()

    def turn_round(self) -> None:
        """Gradients are zero since the last epoch's rows took theirs."""

    def backward(self, chunk: Chunk, visit: Visit, gradient: Tensor) -> Program[Tensor]:
        """Push the gradients of what was read; take those that others pushed here."""
        passage, buffers = self._passage(chunk, visit), self.buffers
        passage.out.backward(gradient)
        if passage.source.grad is not None:
            turn, crossing = self.rank.turns[chunk.slot], self.rank.settings.cross_gradient
            buffers.push(chunk, turn, passage.source.grad, crossing)
        if self.is_prefix:
            grown = passage.h.grad
            return torch.zeros_like(passage.h) if grown is None else grown
        taken = yield from self._take(chunk)
        if passage.stored is passage.h:
            return taken if passage.h.grad is None else taken.add_(passage.h.grad)
        passage.stored.backward(taken)
        assert passage.h.grad is not None
        return passage.h.grad

    def collect(self, leaf: Tensor) -> Program[Tensor | None]:
        """Take the gradients of all chunks' rows."""
        root, self._root = self._root, None
        assert root is not None
        if self.is_constant or not root.requires_grad:
            return None
        total = root.new_empty(root.shape)
        for chunk in self.table.chunks:
            total[chunk.index] = yield from self._take(chunk)
        if root is leaf:
            return total
        root.backward(total)
        return leaf.grad

    def _share(self, rows: Tensor, slot: int) -> Program[None]:
        remote = yield from share_rows(self.rank, rows, slot, self.number)
        if len(remote):
            self.buffers.write(self.table.arrivals[slot], remote)

    def _take(self, chunk: Chunk) -> Program[Tensor]:
        """Return the gradient of a chunk's rows, with what other ways have of it."""
        own = self.buffers.take_gradient(chunk.place)
        remote = self.buffers.take_gradient(self.table.arrivals[chunk.slot])
        yield from return_gradients(self.rank, remote, own, chunk.slot, self.number)
        return own

    def _pass(self, chunk: Chunk, visit: Visit, h: Tensor, stored: Tensor) -> _Passage:
        """Read the halo and update the chunk's rows."""
        source = self.buffers.read(chunk, self.rank.turns[chunk.slot])
        source.requires_grad_(not self.is_constant)
        rows = self.as_read(source, chunk.halo)
        own = rows.index_select(0, chunk.own)
        out = self.block.update(rows, own, h, chunk.edges, visit.initial)
        return _Passage(h, stored, source, out)

    def _passage(self, chunk: Chunk, visit: Visit) -> _Passage:
        """Return what was kept, or compute it again of the same rows."""
        kept = self._kept.pop(chunk.slot)
        if isinstance(kept, _Passage):
            return kept
        h = self.buffers.fresh[chunk.place] if kept is None else kept
        is_first = self.number == self.rank.part.layers.start
        h = h.detach().requires_grad_(visit.trains or not is_first)
        stored = h if self.is_prefix else self.stored(h, chunk.ids)
        return self._pass(chunk, visit, h, stored)

    @property
    def _is_in_buffer(self) -> bool:
        """Whether the carried rows can be read back of the buffer."""
        return type(self.block).prepare is Block.prepare and not self._is_frozen

    # ------------------------------------------------------------------------------- the history

    @property
    def history(self) -> Tensor | None:
        """Of the buffers."""
        return self.buffers.history

    def refresh(self) -> None:
        """Swap today's rows and the history."""
        self.buffers.refresh()
        if self.buffers.history is not None:
            require_finite(self.buffers.history)

    def staleness(self) -> tuple[float, float]:
        """Compare both buffers."""
        own, history = self.table.own_place, self.buffers.history
        old = None if history is None else history[own]
        far, size = squares(old, self.buffers.fresh[own]).tolist()
        return far, size

    # ---------------------------------------------------------------------------------- the rest

    def exact(self, rows: Tensor, chunk: Chunk, h: Tensor, initial: Tensor | None) -> Tensor:
        """Update the chunk from its halo."""
        source = rows.index_select(0, chunk.halo_place)
        own = source.index_select(0, chunk.own)
        return self.block.update(source, own, h, chunk.edges, initial)

    def held_bytes(self) -> int:
        """Return the bytes of the buffers."""
        some = (self.buffers.fresh, self.buffers.history, self.buffers.gradient)
        return sum(rows.numel() * rows.element_size() for rows in some if rows is not None)
