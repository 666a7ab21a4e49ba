"""The chunked executor beside full-graph training and plain PyG on one GPU, where there is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import Mode
from gnnpipe_alone import pyg_step
from gnnpipe_case import Case, session_of

GRAPH: dict[str, Any] = {
    "source": "preferential",
    "nodes": 200_000,
    "degree": 20.0,
    "features": 128,
}
"""Made here: a machine with a GPU need not have Debian's index."""
LAYERS, HIDDEN = 32, 128
WARM, TIMED = 3, 7


def measure_gpu(case: Case, result: Result, out: Path) -> None:
    """Time epochs of GCNII in turns, of the same size in every case.

    Stages of the pipeline run one after the other here. What is divided by is plain PyG.
    """
    if not torch.cuda.is_available():
        result.environment["gpu"] = "none at hand"
        result.figures |= dict.fromkeys(("gpu_chunked_over_plain", "gpu_one_chunk_over_plain"))
        return
    device = torch.device("cuda")
    data = load_graph(DataConfig(**GRAPH))
    config = ModelConfig(name="gcnii", layers=LAYERS, hidden=HIDDEN)
    epochs = {
        "pyg": pyg_step(data, config, device),
        "plain": _ours(data, config, PlainConfig()),
        "one chunk": _ours(data, config, GNNPipeConfig(stages=1, mode=Mode.EXACT)),
        "chunked": _ours(data, config, GNNPipeConfig(stages=2)),
    }
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(WARM + TIMED):
        for name, epoch in epochs.items():
            times[name].append(_seconds(epoch))
    seconds = {name: median(found[WARM:]) for name, found in times.items()}
    result.environment |= {"gpu": torch.cuda.get_device_name(), "gpu_graph": GRAPH}
    result.figures["gpu_chunked_over_plain"] = seconds["chunked"] / seconds["pyg"]
    result.figures["gpu_one_chunk_over_plain"] = seconds["one chunk"] / seconds["pyg"]
    for name, value in seconds.items():
        row = {"part": "gpu", "method": name, "seconds": value, "layers": LAYERS}
        result.rows.append(row | {"nodes": data.num_nodes, "edges": data.num_edges})


def _ours(data: GraphData, config: ModelConfig, settings: object) -> Callable[[], object]:
    plan = make_plan(config, data.num_features, data.num_classes)
    method = build_method(settings, plan, data, session_of(device="cuda"))
    indices = itertools.count()
    return lambda: method.epoch(next(indices))


def _seconds(call: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
