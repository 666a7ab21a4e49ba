"""One layer's rows of all vertices: today's, those of the history, and the gradient of today's."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .chunks import Chunk, Turn


class LayerBuffers:
    """What chunks read of one another in one layer (the source's sections 4.1 and 4.3).

    Rows are chosen by turn: a vertex whose chunk has had its turn is read from `fresh`, the others
    from `history`. So nothing is copied back when an epoch begins, and what a chunk read can be
    read again in the backward pass.

    Attributes:
        fresh: rows of this epoch.
        history: rows of the epoch of the last refresh; `None` where nothing is ever stale.
        gradient: sums of the gradients of `fresh`; zero between epochs.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        history: Tensor | None,
        has_gradient: bool = True,
    ) -> None:
        self.fresh = torch.zeros(rows, width, dtype=dtype, device=device)
        self.history = history
        self.gradient = torch.zeros_like(self.fresh) if has_gradient else None

    def read(self, chunk: Chunk, turn: Turn) -> Float[Tensor, "source dim"]:
        """Return the rows of a chunk's halo, as they are when its turn comes."""
        rows = self.fresh.index_select(0, chunk.halo_place)
        if self.history is not None and turn.stale.numel():
            old = self.history.index_select(0, chunk.halo_place[turn.stale])
            rows.index_copy_(0, turn.stale, old.to(rows.dtype))
        return rows

    def write(self, place: Int[Tensor, " row"], rows: Float[Tensor, "row dim"]) -> None:
        """Keep the rows of a chunk whose turn it is."""
        self.fresh.index_copy_(0, place, rows)

    def push(
        self, chunk: Chunk, turn: Turn, gradient: Float[Tensor, "source dim"], crossing: float
    ) -> None:
        """Add the gradient of what a chunk read to the rows that it came from.

        Rows of the history are constants and get none. Those of chunks that had their turn before
        get `crossing` times theirs (the source's section 4.4).
        """
        if self.gradient is None:
            return
        if self.history is None:
            self.gradient.index_add_(0, chunk.halo_place, gradient)
            return
        for rows, factor in ((turn.same, 1.0), (turn.earlier, crossing)):
            if rows.numel():
                place = chunk.halo_place[rows]
                self.gradient.index_add_(0, place, gradient.index_select(0, rows), alpha=factor)

    def take_gradient(self, place: Int[Tensor, " row"]) -> Float[Tensor, "row dim"]:
        """Return the gradient of some rows and leave zeros."""
        assert self.gradient is not None
        taken = self.gradient.index_select(0, place)
        self.gradient.index_fill_(0, place, 0.0)
        return taken

    def refresh(self) -> None:
        """Let today's rows be the history; today's are written anew in the next epoch."""
        if self.history is None:
            return
        if self.history.dtype is self.fresh.dtype:
            self.history, self.fresh = self.fresh, self.history
        else:
            self.history.copy_(self.fresh)
