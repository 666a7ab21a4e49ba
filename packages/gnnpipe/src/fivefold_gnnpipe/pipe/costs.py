"""What each layer costs on this machine: forward and backward of one chunk (section 4.6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from ..engine.graph import GraphData
from ..engine.plan import Block, LayerPlan, Masks
from .chunks import Chunk, WayTable

_WARM_UPS, _REPEATS = 3, 8


def layer_seconds(plan: LayerPlan, table: WayTable, data: GraphData) -> list[float]:
    """Return the seconds of every layer, the encoder's with the first, the head's with the last.

    Dropout is part of them. Layers of one class and width are measured once: they cost the same.

    Args:
        plan: the network, on its device.
        table: chunks, on the same device; the largest is measured.
        data: the graph, for a chunk's features.
    """
    chunk = max(table.chunks, key=lambda c: c.edges.num_edges)
    parameter = next(plan.parameters())
    device, dtype = parameter.device, parameter.dtype
    masks = Masks(plan.dropout)

    def random_rows(count: int, width: int) -> Tensor:
        return torch.randn(count, width, dtype=dtype, device=device).requires_grad_()

    h0 = random_rows(len(chunk.ids), plan.width(0)) if plan.initial else None
    measured: dict[tuple[type, int, int], float] = {}
    seconds = []
    for layer, block in enumerate(plan.layers, 1):
        key = (type(block), block.in_width, block.out_width)
        if key not in measured:
            source = random_rows(len(chunk.halo), block.in_width)
            h = random_rows(len(chunk.ids), block.in_width)
            run = partial(_one_layer, block, layer, chunk, source, h, h0, masks)
            measured[key] = _seconds(run, [source, h, *block.parameters()], device)
        seconds.append(measured[key])
    if plan.encoder is not None:
        x, encoder = data.x[chunk.ids.cpu()].to(device, dtype), plan.encoder
        run = partial(plan.encode, x, chunk.ids, masks)
        seconds[0] += _seconds(run, list(encoder.parameters()), device)
    if plan.head is not None:
        last = random_rows(len(chunk.ids), plan.width(plan.num_blocks))
        run = partial(plan.readout, last, chunk.ids, masks)
        seconds[-1] += _seconds(run, [last, *plan.head.parameters()], device)
    return seconds


def _one_layer(
    block: Block,
    layer: int,
    chunk: Chunk,
    source: Tensor,
    h: Tensor,
    h0: Tensor | None,
    masks: Masks,
) -> Tensor:
    """Do what a chunk's turn does in a layer, its neighbours' rows being there."""
    own = masks.drop(layer, block.prepare(h), chunk.ids)
    return block.update(source, own, h, chunk.edges, h0)


def _seconds(run: Callable[[], Tensor], leaves: Sequence[Tensor], device: torch.device) -> float:
    """Return the median time of a forward and a backward pass."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    times = []
    for _ in range(_WARM_UPS + _REPEATS):
        _wait(device)
        begin = time.perf_counter()
        out = run()
        if wanted and out.requires_grad:
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)
        _wait(device)
        times.append(time.perf_counter() - begin)
    return median(times[_WARM_UPS:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
