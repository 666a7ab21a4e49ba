"""Gradients of weights, added up over tiles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def accumulator_dtype(dtype: torch.dtype, in_float32: bool) -> torch.dtype:
    """Return the number format in which gradients of this one are added up."""
    return torch.float32 if in_float32 and dtype in HALF else dtype


class GradientSums:
    """One running sum a weight; a sum of half-precision gradients is kept in float32.

    Cutting N rows into M tiles cuts the inner axis of the product that makes a weight's gradient;
    a half-precision sum would be rounded at every cut.
    """

    def __init__(self, weights: Sequence[Tensor], in_float32: bool) -> None:
        """Start at nothing for each weight.

        Args:
            weights: whose gradients are summed.
            in_float32: whether half-precision weights have float32 sums.
        """
        self._dtypes = [weight.dtype for weight in weights]
        self._wide = [accumulator_dtype(dtype, in_float32) for dtype in self._dtypes]
        self._sums: list[Tensor | None] = [None] * len(weights)

    def add(self, index: int, grad: Tensor | None) -> None:
        """Add a tile's gradient; None adds nothing."""
        if grad is None:
            return
        held = self._sums[index]
        if held is not None:
            held.add_(grad)
        elif grad.dtype == self._wide[index] and 0 not in grad.stride():
            self._sums[index] = grad
        else:
            self._sums[index] = grad.to(self._wide[index], copy=True)

    def add_product(self, index: int, left: Tensor, right: Tensor) -> None:
        """Add `left^T @ right`, made in place where formats allow.

        Args:
            index: the weight, [out, in].
            left: [row, out].
            right: [row, in].
        """
        held = self._sums[index]
        if held is None:
            self.add(index, left.mT @ right)
        elif held.dtype == left.dtype == right.dtype:
            held.addmm_(left.mT, right)
        else:
            held.add_(left.mT @ right)

    def take(self) -> list[Tensor | None]:
        """Return the sums in the weights' own formats and forget them."""
        return [
            None if held is None else held.to(dtype)
            for held, dtype in zip(self.take_wide(), self._dtypes, strict=True)
        ]

    def take_wide(self) -> list[Tensor | None]:
        """Return the sums as they were added up and forget them."""
        taken, self._sums = self._sums, [None] * len(self._sums)
        return taken
