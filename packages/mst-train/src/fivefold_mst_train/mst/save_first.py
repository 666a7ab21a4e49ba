"""Saving a tensor before the operation that needs it runs.

Non-reentrant checkpointing stops a replay once everything that forward saved has been computed
again. What is saved here is saved before the tiles run, so a replay stops before them, and an MLP
runs forward twice a token (forward, tile by tile in backward) instead of three times.

The saved tensor is read through another node's context, which torch does not promise: this file is
all that relies on it, and `training.mlp.save_first=false` does without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Save(torch.autograd.Function):
    """Identity that keeps its input for whoever asks its node in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class SavedInput:
    """An input of an operation, saved before it runs; readable once, in backward."""

    def __init__(self, x: Tensor) -> None:
        """Save a tensor that requires a gradient."""
        self.value: Tensor | None = _Save.apply(x)  # type: ignore[no-untyped-call]
        assert self.value is not None
        self._node: Any = self.value.grad_fn

    def read(self) -> Tensor:
        """Return the tensor; under checkpointing this is what starts the replay."""
        (x,) = self._node.saved_tensors
        saved: Tensor = x
        return saved
