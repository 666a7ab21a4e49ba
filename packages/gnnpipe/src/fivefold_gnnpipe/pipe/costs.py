"""What each layer costs on this machine: forward and backward of one chunk (section 4.6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from ..engine.graph import GraphData
from ..engine.plan import LayerPlan
from .chunks import WayTable

_WARM_UPS, _REPEATS = 3, 8


def layer_seconds(plan: LayerPlan, table: WayTable, data: GraphData) -> list[float]:
    """Return the seconds of every layer, the encoder's with the first, the head's with the last.

    Layers of one class and width are measured once: they cost the same.

    Args:
        plan: the network, on its device.
        table: chunks, on the same device; the largest is measured.
        data: the graph, for a chunk's features.
    """
    chunk = max(table.chunks, key=lambda c: c.edges.num_edges)
    parameter = next(plan.parameters())
    device, dtype = parameter.device, parameter.dtype
    x = data.x[chunk.ids.cpu()].to(device, dtype)
    measured: dict[tuple[type, int, int], float] = {}
    seconds = []
    h0 = torch.randn(len(chunk.ids), plan.width(0), dtype=dtype, device=device)
    for layer, block in enumerate(plan.layers, 1):
        key = (type(block), block.in_width, block.out_width)
        if key not in measured:
            source = torch.randn(len(chunk.halo), block.in_width, dtype=dtype, device=device)
            source.requires_grad_()

            def run(layer: int = layer, source: Tensor = source) -> Tensor:
                one = plan.block(layer)
                own = source.index_select(0, chunk.own)
                rows = one.prepare(source)
                initial = h0 if one.uses_initial else None
                return one.update(rows, rows.index_select(0, chunk.own), own, chunk.edges, initial)

            measured[key] = _seconds(run, block, device)
        seconds.append(measured[key])
    if plan.encoder is not None:
        seconds[0] += _seconds(lambda: plan.encode(x, chunk.ids), plan.encoder, device)
    if plan.head is not None:
        last = torch.randn(len(chunk.ids), plan.width(plan.num_blocks), dtype=dtype, device=device)
        seconds[-1] += _seconds(lambda: plan.readout(last, chunk.ids), plan.head, device)
    return seconds


def _seconds(run: Callable[[], Tensor], module: nn.Module, device: torch.device) -> float:
    """Return the median time of a forward and a backward pass."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    times = []
    for _ in range(_WARM_UPS + _REPEATS):
        _wait(device)
        begin = time.perf_counter()
        out = run()
        if parameters and out.requires_grad:
            torch.autograd.grad(out, parameters, torch.ones_like(out), allow_unused=True)
        _wait(device)
        times.append(time.perf_counter() - begin)
    return median(times[_WARM_UPS:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
