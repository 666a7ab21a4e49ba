"""Weight gradients of ranks that hold copies of the same weights, summed in one ring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .transport import Program, Traffic, Transport, ring_all_reduce


def sum_gradients(
    wire: Transport, parameters: Sequence[nn.Parameter], ranks: Sequence[int], traffic: Traffic
) -> Program[None]:
    """Let each weight's gradient be the sum over some ranks; a missing one counts as zeros.

    Args:
        wire: this rank's end.
        parameters: the weights, the same in the same order on all of them.
        ranks: those that hold them.
        traffic: what the bytes count as.
    """
    if not parameters or len(ranks) == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    total = yield from ring_all_reduce(wire, flat, ranks, traffic)
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, total.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter).clone()
