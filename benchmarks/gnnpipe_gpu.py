"""The chunked executor beside full-graph training on one GPU, where there is one."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from gnnpipe_case import Case, session_of


def measure_gpu(case: Case, result: Result, out: Path) -> None:
    """Time the chunked executor against full-graph training on one GPU, where there is one."""
    if not torch.cuda.is_available():
        result.environment["gpu"] = "none at hand"
        result.figures["gpu_chunked_over_plain"] = None
        return
    data = load_graph(DataConfig(**case.data))
    seconds = {}
    for name, settings in (("plain", PlainConfig()), ("gnnpipe", GNNPipeConfig(stages=2))):
        plan = make_plan(case.model, data.num_features, data.num_classes)
        method = build_method(settings, plan, data, session_of(device="cuda"))
        times = []
        for index in range(8):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            method.epoch(index)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        seconds[name] = median(times[3:])
        method.close()
    result.environment["gpu"] = torch.cuda.get_device_name()
    result.figures["gpu_chunked_over_plain"] = seconds["gnnpipe"] / seconds["plain"]
    result.rows.append({"part": "gpu", **{f"seconds_{k}": v for k, v in seconds.items()}})
