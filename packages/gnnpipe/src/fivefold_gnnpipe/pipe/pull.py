"""A layer in the pull form (the source's section 4.2): a product with fixed edge weights.

One board [vertex, dim] serves both directions. As an epoch begins it holds the history; each
chunk writes its rows over theirs, and aggregates A[chunk, :] @ board: what has had its turn is
fresh, the rest is history. When all have gone forward the board is cleared, and each chunk on its
way back writes the gradient G of what it aggregated; A^T[chunk, :] @ board is then the gradient of
its rows, since those whose readings of it were history have not come back yet and are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.edges import Edges
from ..engine.plan import SparseBlock
from ..engine.transport import Program
from .chunks import Chunk, WayTable
from .exchange import return_gradients, share_rows
from .history import require_finite, squares
from .layer import StageLayer, Visit

if TYPE_CHECKING:
    from .chunked import ChunkedRank


@dataclass(frozen=True)
class Matrices:
    """The way's matrix, cut by slot; every layer of the rank uses the same."""

    forth: list[Tensor]
    """A[rows of the slot's chunk, local], CSR."""
    back: list[Tensor]
    """A^T[rows of the chunk and of other ways in the slot, own], CSR."""

    @classmethod
    def of(cls, table: WayTable) -> Matrices:
        """Cut a way's edges."""
        own, local = len(table.vertices), len(table.local)
        forth, sources, targets, weights = [], [], [], []
        for chunk in table.chunks:
            source, target = chunk.halo_place[chunk.edges.edge_index[0]], chunk.edges.edge_index[1]
            index, weight = torch.stack([source, target]), chunk.edges.edge_weight
            forth.append(Edges(index, weight, local, len(chunk.ids), chunk.edges.dtype).csr)
            sources.append(source)
            targets.append(chunk.index[target])
            weights += [weight] if weight is not None else []
        index = torch.stack([torch.cat(targets), torch.cat(sources)])  # turned round
        order = (index[1] * own + index[0]).argsort()
        weight = torch.cat(weights)[order] if weights else None
        whole = Edges(index[:, order], weight, own, local, table.chunks[0].edges.dtype)
        back = [
            whole.select(torch.cat([chunk.place, table.arrivals[chunk.slot]])).csr
            for chunk in table.chunks
        ]
        return cls(forth, back)


@dataclass
class _Passage:
    """A chunk's way through the layer, as far as its backward pass needs it."""

    h: Tensor
    """Carried rows, a leaf."""
    own: Tensor
    """What is aggregated of them, made from `h` under autograd; of a prefix `h` itself."""
    target: Tensor
    """The same rows as the update reads them, a leaf."""
    neighbours: Tensor
    """The aggregate, a leaf."""
    out: Tensor
    """The next carried rows."""


class PullLayer(StageLayer):
    """A layer whose chunks pull rows and gradients by products with parts of the matrix."""

    def __init__(self, rank: ChunkedRank, number: int, matrices: Matrices) -> None:
        super().__init__(rank, number)
        assert isinstance(self.block, SparseBlock)
        self._sparse, self._matrices = self.block, matrices
        self._board = torch.zeros(
            len(self.table.local), self.block.in_width, dtype=rank.dtype, device=rank.device
        )
        self._gradient = self._board[: len(self.table.vertices)]
        self._history = self.new_history()
        may_come = self._history is not None and rank.settings.history.auto_refresh is not None
        self._next = torch.zeros_like(self._history) if may_come else None  # type: ignore[arg-type]
        self._squares = torch.zeros(2, dtype=torch.float64, device=rank.device)
        self._passages: dict[int, _Passage] = {}
        self._root: Tensor | None = None
        self._direct: Tensor | None = None

    # ---------------------------------------------------------------------------------- an epoch

    def open(self) -> None:
        """Lay the history out, under today's masks."""
        self._squares.zero_()
        if self._history is not None:
            rows = self._history.to(self._board.dtype)
            self._board.copy_(self.as_read(rows, self.table.local))

    def fill(self, leaf: Tensor) -> Program[None]:
        """Lay the rows of all chunks out."""
        table = self.table
        stored = self.stored(leaf, table.vertices)
        self._root = self.as_read(stored, table.vertices)
        self._direct = torch.zeros_like(self._root) if not self.is_constant else None
        self._board.index_copy_(0, table.own_place, self._root.detach())
        rows = stored.detach()
        if self.rank.reports:
            self._squares += squares(None, rows)
        if self.is_constant:
            ids = table.local[table.remote_place]
            remote = self.as_read(self.stored(self.rank.remote_features, ids), ids)
            self._board.index_copy_(0, table.remote_place, remote)
            return
        for slot, chunk in enumerate(table.chunks):
            yield from self._share(rows[chunk.index], slot)

    def forward(self, chunk: Chunk, visit: Visit, h: Tensor) -> Program[Tensor]:
        """Write the chunk's rows, aggregate, update."""
        if self.is_prefix:
            own, target = h, self._board.index_select(0, chunk.place)
        else:
            stored = self.stored(h, chunk.ids)
            own = self.as_read(stored, chunk.ids)
            target = own.detach()
            self._write(chunk.place, stored.detach(), target)
            yield from self._share(stored.detach(), chunk.slot)
        target.requires_grad_(not self.is_constant)
        neighbours = (self._matrices.forth[chunk.slot] @ self._board).requires_grad_(
            not self.is_constant
        )
        out = self._sparse.combine(neighbours, target, h, visit.initial)
        self._passages[chunk.slot] = _Passage(h, own, target, neighbours, out)
        return out.detach().requires_grad_()

    def turn_round(self) -> None:
        """Clear the board for gradients."""
        if not self.is_constant:
            self._board.zero_()

    def backward(self, chunk: Chunk, visit: Visit, gradient: Tensor) -> Program[Tensor]:
        """Write the aggregate's gradient; pull that of the chunk's rows."""
        passage = self._passages.pop(chunk.slot)
        passage.out.backward(gradient)
        direct, h = passage.target.grad, passage.h
        if passage.neighbours.grad is not None:
            self._gradient.index_copy_(0, chunk.index, passage.neighbours.grad)
        if self.is_prefix:
            if direct is not None and self._direct is not None:
                self._direct.index_copy_(0, chunk.index, direct)
            return torch.zeros_like(h) if h.grad is None else h.grad
        own = yield from self._pull(chunk)
        crossing = self.rank.settings.cross_gradient
        if self._history is not None and crossing != 1 and passage.neighbours.grad is not None:
            self._gradient.index_copy_(0, chunk.index, passage.neighbours.grad * crossing)
        if direct is not None:
            own += direct
        if passage.own is h:
            return own if h.grad is None else own.add_(h.grad)
        passage.own.backward(own)
        assert h.grad is not None
        return h.grad

    def collect(self, leaf: Tensor) -> Program[Tensor | None]:
        """Pull the gradients of all chunks' rows."""
        root, total = self._root, self._direct
        self._root = self._direct = None
        assert root is not None
        if total is None or not root.requires_grad:
            return None
        for chunk in self.table.chunks:
            own = yield from self._pull(chunk)
            total.index_add_(0, chunk.index, own)
        if root is leaf:
            return total
        root.backward(total)
        return leaf.grad

    def _write(self, place: Tensor, stored: Tensor, rows: Tensor) -> None:
        """Lay rows out where they stand, and keep them if they become the history."""
        self._board.index_copy_(0, place, rows)
        if self.rank.reports:
            old = None if self._history is None else self._history.index_select(0, place)
            self._squares += squares(old, stored)
        self._keep(place, stored)

    def _share(self, stored: Tensor, slot: int) -> Program[None]:
        remote = yield from share_rows(self.rank, stored, slot, self.number)
        if len(remote):
            place = self.table.arrivals[slot]
            self._board.index_copy_(0, place, self.as_read(remote, self.table.local[place]))
            self._keep(place, remote)

    def _keep(self, place: Tensor, stored: Tensor) -> None:
        """Keep rows of an epoch that ends a period: the board has laid the old ones out."""
        if self._next is not None:
            self._next.index_copy_(0, place, stored.to(self._next.dtype))
        elif self._history is not None and self.rank.ends_period:
            self._history.index_copy_(0, place, stored.to(self._history.dtype))

    def _pull(self, chunk: Chunk) -> Program[Tensor]:
        """Return the gradient of a chunk's rows, with what other ways have of it."""
        both = self._matrices.back[chunk.slot] @ self._gradient
        own, remote = both[: len(chunk.ids)], both[len(chunk.ids) :]
        yield from return_gradients(self.rank, remote, own, chunk.slot, self.number)
        return own

    # ------------------------------------------------------------------------------- the history

    @property
    def history(self) -> Tensor | None:
        """Rows before dropout, unless masks are frozen."""
        return self._history

    def refresh(self) -> None:
        """Swap, where each epoch's rows are kept; else the period's last epoch has written them."""
        if self._next is not None:
            self._history, self._next = self._next, self._history
        if self._history is not None:
            require_finite(self._history)

    def staleness(self) -> tuple[float, float]:
        """Return what was summed when rows were written."""
        far, size = self._squares.tolist()
        return far, size

    # ---------------------------------------------------------------------------------- the rest

    def exact(self, rows: Tensor, chunk: Chunk, h: Tensor, initial: Tensor | None) -> Tensor:
        """Aggregate rows of all vertices and update the chunk."""
        own = rows.index_select(0, chunk.place)
        return self._sparse.combine(self._matrices.forth[chunk.slot] @ rows, own, h, initial)

    def held_bytes(self) -> int:
        """Return the bytes of board and history."""
        some = (self._board, self._history, self._next)
        return sum(rows.numel() * rows.element_size() for rows in some if rows is not None)
