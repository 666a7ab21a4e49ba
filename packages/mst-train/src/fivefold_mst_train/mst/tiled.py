"""Running a token-wise function tile by tile, forward and backward.

y = f(x), row by row. Forward keeps x alone; backward takes one tile at a time, computes f again for
it and differentiates it. The trainable parameters are inputs of the autograd function and their
gradients its outputs, each returned once, when all tiles are done: what DDP, FSDP, ZeRO and
optimizers in backward rely on. Source: arXiv 2407.15892, section 3.2, whose code splits forward
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .ambient import Autocast, RandomState
from .save_first import SavedInput
from .sums import GradientSums
from .tiles import cut

RowFunction = Callable[[Tensor], Tensor]


@runtime_checkable
class TileBackward(Protocol):
    """Differentiates the function for one tile, by hand."""

    def __call__(self, x: Tensor, grad: Tensor, sums: GradientSums) -> Tensor:
        """Add the weights' gradients to `sums`; return that of the tile's rows, [row, in]."""
        ...


@dataclass
class TiledCall:
    """One call of a function, tile by tile."""

    function: RowFunction
    """f, [row, in] -> [row, out]; a row of its result depends on that row alone."""
    parameters: Sequence[Tensor]
    """Parameters of f that require a gradient."""
    tile: int
    """Rows of a tile."""
    in_float32: bool = True
    """Whether half-precision gradients are added up in float32."""
    draws_numbers: bool = False
    """Whether f draws random numbers, which backward must draw again."""
    by_hand: TileBackward | None = None
    """What differentiates a tile; None: autograd."""
    saved: SavedInput | None = None
    """x, where it was saved before."""
    autocast: Autocast | None = None
    """What held in forward."""
    states: list[RandomState] = field(default_factory=list)
    """Of each tile, where f draws random numbers."""

    def rows(self, x: Tensor) -> Iterator[slice]:
        """Yield the rows of every tile."""
        return cut(len(x), self.tile, is_planned=x.is_meta)

    def run(self, x: Tensor) -> Tensor:
        """Compute f tile by tile into one tensor made beforehand: no concatenation."""
        out: Tensor | None = None
        for rows in self.rows(x):
            if self.draws_numbers:
                self.states.append(RandomState.capture(x.device))
            y = self.function(x[rows])
            if out is None:
                if rows.stop == len(x):
                    return y
                out = y.new_empty(len(x), *y.shape[1:])
            out[rows] = y
            del y
        assert out is not None
        return out

    def differentiate(
        self, x: Tensor, grad: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Compute f again tile by tile and return the gradients.

        Args:
            x: [row, in].
            grad: of f's result, [row, out].
            needs: whether x's gradient is wanted, and each parameter's.

        Returns:
            Gradient of x, and those of the parameters; None where none is wanted.
        """
        wanted = [p for p, is_needed in zip(self.parameters, needs[1:], strict=True) if is_needed]
        sums = GradientSums(wanted, self.in_float32)
        of_x = torch.empty_like(x) if needs[0] else None
        assert self.autocast is not None
        with self.autocast.replay():
            for index, rows in enumerate(self.rows(x)):
                with self.states[index].replay() if self.states else nullcontext():
                    of_tile = self._tile_gradient(x[rows], grad[rows], wanted, sums, needs[0])
                if of_x is not None and of_tile is not None:
                    of_x[rows] = of_tile
                del of_tile
        found = iter(sums.take())
        return of_x, [next(found) if is_needed else None for is_needed in needs[1:]]

    def _tile_gradient(
        self, x: Tensor, grad: Tensor, wanted: list[Tensor], sums: GradientSums, needs_x: bool
    ) -> Tensor | None:
        if self.by_hand is not None and len(wanted) == len(self.parameters):
            return self.by_hand(x, grad, sums)
        with torch.enable_grad():
            x = x.detach().requires_grad_(needs_x)
            y = self.function(x)
        inputs = [x, *wanted] if needs_x else wanted
        grads = list(torch.autograd.grad(y, inputs, grad, allow_unused=True))
        of_x = grads.pop(0) if needs_x else None
        for index in range(len(wanted)):
            sums.add(index, grads[index])
            grads[index] = None  # type: ignore[call-overload]
        return of_x


class _Tiled(torch.autograd.Function):
    """Autograd's view of a tiled call: x and parameters in, y out."""

    @staticmethod
    def forward(ctx: Any, call: TiledCall, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        if call.saved is None:
            ctx.save_for_backward(x)
        return call.run(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: TiledCall = ctx.call
        x = ctx.saved_tensors[0] if call.saved is None else call.saved.read()
        of_x, of_parameters = call.differentiate(x, grad, ctx.needs_input_grad[1:])
        return (None, of_x, *of_parameters)


def tiled(
    function: RowFunction,
    x: Float[Tensor, "*rows in"],
    parameters: Sequence[Tensor],
    tile: int,
    *,
    save_first: bool = True,
    in_float32: bool = True,
    draws_numbers: bool = False,
    by_hand: TileBackward | None = None,
) -> Float[Tensor, "*rows out"]:
    """Compute y = f(x) tile by tile, in forward and, computed again, in backward.

    Bytes alive beside x and y: one tile's, both ways. f runs once a row in forward and once in
    backward.

    Args:
        function: f, [row, in] -> [row, out]; a row of its result depends on that row alone.
        x: rows in any leading shape; they are flattened, so tiles may cross the rows of a batch.
        parameters: parameters of f; those that require no gradient are left out.
        tile: rows of a tile, 1 or more.
        save_first: save x before the tiles run (see `save_first.py`).
        in_float32: add up half-precision gradients of parameters in float32.
        draws_numbers: f draws random numbers, which backward draws again.
        by_hand: differentiates a tile where all parameters require a gradient; None: autograd.

    Source: arXiv 2407.15892, algorithm 1.
    """
    trainable = [each for each in parameters if each.requires_grad]
    if len(trainable) < len(parameters):
        by_hand = None
    flat = x.reshape(-1, x.shape[-1])
    call = TiledCall(
        function, trainable, tile, in_float32, draws_numbers, by_hand,
        autocast=Autocast.capture(x.device),
    )  # fmt: skip
    if not len(flat):
        y = function(flat)
    elif not (torch.is_grad_enabled() and (flat.requires_grad or trainable)):
        y = call.run(flat)
    else:
        if save_first and flat.requires_grad:
            call.saved = SavedInput(flat)
            assert call.saved.value is not None
            flat, call.saved.value = call.saved.value, None
        y = _Tiled.apply(call, flat, *trainable)  # type: ignore[no-untyped-call]
    return y.reshape(*x.shape[:-1], y.shape[-1])
