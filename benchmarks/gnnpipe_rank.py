"""One rank of `benchmarks/gnnpipe.py`: trains a few epochs, or plans, and reports as JSON."""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

import torch
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig, PlainConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig, TransportConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.plan import LayerPlan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.engine.transport import open_distributed
from fivefold_gnnpipe.pipe.link_rate import measured_mbit
from fivefold_gnnpipe.pipe.planner import prospect_of_all
from gnnpipe_case import session_of


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
    """Train `case["method"]` on `case["data"]` and print the median epoch, or plan."""
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    data = load_graph(DataConfig(**case["data"]))
    plan = make_plan(ModelConfig(**case["model"]), data.num_features, data.num_classes)
    if case["method"] == "plan":
        print(json.dumps(planned(plan, data)))
    else:
        print(json.dumps(trained(case, plan, data)))


def trained(case: dict[str, Any], plan: LayerPlan, data: GraphData) -> dict[str, Any]:
    """Return the median of some epochs, and what they sent."""
    wire = TransportConfig(timeout=600.0)
    method = build_method(settings_of(case, wire), plan, data, session_of())
    reports = [method.epoch(index) for index in range(case["epochs"])][1:]
    facts = method.facts()
    method.close()
    return {
        "seconds": median(report.seconds for report in reports),
        "waited": median(report.seconds_waited for report in reports),
        "bytes": reports[-1].bytes_sent,
        "bytes_formula": facts["bytes_formula"],
        "peak_memory_bytes": facts["peak_memory_bytes"],
    }


def planned(plan: LayerPlan, data: GraphData) -> dict[str, float | None]:
    """Return the link's rate as the planner measures it, and the seconds that it predicts."""
    session = session_of()
    end = open_distributed("gloo", session.device, 3600.0)
    settings = GNNPipeConfig(stages=session.world)
    mbit = measured_mbit(end)
    found = prospect_of_all(end, plan, data, session, settings, session.world, mbit)
    end.close()
    return {"mbit": mbit, **{way.name: way.seconds for way in found.ways}}


main()
