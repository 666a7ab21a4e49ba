"""A stage that takes the whole graph at once: nothing is stale, autograd does the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.edges import Edges
from ..engine.plan import NO_DROPOUT
from ..engine.transport import Program, Traffic
from .rank import PipeRank


class WholeRank(PipeRank):
    """One stage of `mode=exact` and of each replica of `mode=sweep`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        (chunk,) = self.table.chunks
        self.edges: Edges = chunk.edges
        self.ids = chunk.ids
        self._carried: Tensor | None = None
        self._out: Tensor | None = None

    def begin(self) -> Program[None]:
        """Nothing comes before the only chunk."""
        yield from ()

    def forward_chunk(self, turn: int, carried: Tensor | None) -> Program[Tensor]:
        """Run all layers under one autograd graph."""
        yield from ()
        part, plan = self.part, self.plan
        self._carried = carried.requires_grad_() if carried is not None else None
        h, h0 = self._open(self._carried)
        for layer in part.layers:
            block = plan.block(layer)
            rows = self.masks.drop(layer, block.prepare(h), self.ids)
            h = block.update(rows, rows, h, self.edges, h0)
        self._out = h
        if part.initial_width and h0 is not None and not part.is_last:
            self._out = torch.cat([h, h0], dim=1)
        return self._out

    def backward_chunk(self, turn: int, gradient: Tensor | None) -> Program[Tensor | None]:
        """Descend from the loss, or from the gradient that came back."""
        yield from ()
        out, self._out = self._out, None
        assert out is not None
        if gradient is None:
            loss = self.loss_of(out, None, self.ids)
            loss.backward()
            self.loss += loss.detach()
        else:
            out.backward(gradient)
        return self._carried.grad if self._carried is not None else None

    def finish(self) -> Program[None]:
        """Nothing comes after the only chunk."""
        self._carried = None
        yield from ()

    def _open(self, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the first rows of this stage and the initial embedding, if it is read."""
        part, plan = self.part, self.plan
        encoded = None
        if part.has_encoder:
            assert self.x is not None
            encoded = plan.encode(self.x, self.ids, self.masks)
        if carried is None:
            assert encoded is not None
            return encoded, encoded if plan.initial else None
        if part.initial_width:
            width = carried.shape[1] - part.initial_width
            return carried[:, :width], carried[:, width:]
        return carried, encoded

    def logits(self, *, keeps: bool = False) -> Program[Tensor | None]:
        """Return the exact scores at the last stage."""
        part, plan = self.part, self.plan.eval()
        carried, tag = None, self._tag_of_evaluation
        if not part.is_first:
            shape = (len(self.ids), part.in_columns)
            before = self.wire.rank - 1
            carried = yield self.wire.post(shape, self.dtype, before, Traffic.EVALUATION, tag)
        with torch.no_grad():
            masks, self.masks = self.masks, NO_DROPOUT
            h, h0 = self._open(carried)
            self.masks = masks
            for layer in part.layers:
                block = plan.block(layer)
                rows = block.prepare(h)
                h = block.update(rows, rows, h, self.edges, h0)
            if part.is_last:
                return plan.readout(h, self.ids)
            if part.initial_width and h0 is not None:
                h = torch.cat([h, h0], dim=1)
        self.wire.send(h, self.wire.rank + 1, Traffic.EVALUATION, tag)
        return None

    @property
    def _tag_of_evaluation(self) -> int:
        return self.replica
