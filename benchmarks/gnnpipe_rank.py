"""One rank of `benchmarks/gnnpipe.py`: trains a few epochs and reports their times as JSON."""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

import torch
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig, TrainOptions, TransportConfig
from fivefold_gnnpipe.engine.api import build_method, make_session
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph


def settings_of(
    case: dict[str, Any], wire: TransportConfig
) -> PlainConfig | GraphParallelConfig | GNNPipeConfig:
    """Return the settings of a case's method."""
    if case["method"] == "plain":
        return PlainConfig()
    if case["method"] == "graph_parallel":
        return GraphParallelConfig(transport=wire)
    return GNNPipeConfig(transport=wire, **case["settings"])


def main() -> None:
    """Train `case["method"]` on `case["data"]` and print the median epoch."""
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    data = load_graph(DataConfig(**case["data"]))
    plan = make_plan(ModelConfig(**case["model"]), data.num_features, data.num_classes)
    options = TrainOptions(epochs=1 << 20, eval_every=1 << 20)
    session = make_session(options, "cpu", torch.float32)
    wire = TransportConfig(timeout=600.0)
    method = build_method(settings_of(case, wire), plan, data, session)
    reports = [method.epoch(index) for index in range(case["epochs"])][1:]
    facts = method.facts()
    print(
        json.dumps(
            {
                "seconds": median(report.seconds for report in reports),
                "waited": median(report.seconds_waited for report in reports),
                "bytes": reports[-1].bytes_sent,
                "bytes_formula": facts["bytes_formula"],
                "peak_memory_bytes": facts["peak_memory_bytes"],
            }
        )
    )
    method.close()


main()
