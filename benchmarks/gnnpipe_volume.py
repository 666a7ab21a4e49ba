"""Bytes an epoch: counters and formulas, methods and one another, ours and the source's."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig
from fivefold_gnnpipe.config import DataConfig, ModelConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.volume import Sizes, graph_parallel_bytes, pipeline_bytes
from gnnpipe_case import Case, session_of

GIB = 2**30
SOURCE_GRAPHS = {
    "reddit": (232_965, 602, 100, 41, 14.50),
    "squirrel": (5_201, 2_089, 1000, 5, 4.53),
    "flickr": (89_250, 500, 100, 7, 4.60),
    "physics": (34_493, 8_415, 100, 5, 0.88),
}
"""Vertices, features, hidden width, classes, and the graph-parallel GiB an epoch that the source's
runs logged (8 GPUs, 32 layers, GCNII; Reddit's GCN log has the same total)."""
SOURCE_MODELS = ("gcn", "sage", "gcnii", "resgcn")


def measure_volume(case: Case, result: Result, out: Path) -> None:
    """Compare counters with formulas, and methods with one another; there is no picture."""
    deep, nodes = case.model, case.preferential_nodes
    preferential = {"source": "preferential", "nodes": nodes, "degree": 50.0, "features": 16}
    for name, source in (("debian", case.data), ("preferential", preferential)):
        data = load_graph(DataConfig(**source))
        counted = {}
        for method, settings in _methods_of_four().items():
            sent, formula = one_epoch(settings, data, deep)
            counted[method] = sent
            result.rows.append(
                {
                    "part": "volume",
                    "graph": data.name,
                    "method": method,
                    "devices": 4,
                    "layers": deep.layers,
                    "bytes": sent,
                    "bytes_formula": formula,
                    "equal": sent == formula,
                    "digest": data.digest,
                }
            )
        ratio = counted["graph_parallel"] / counted["gnnpipe"]
        result.figures[f"bytes_graph_over_pipe_{name}"] = ratio
    result.figures["counters_equal_formulas"] = float(
        all(row["equal"] for row in result.rows if row["part"] == "volume")
    )
    _headline(result)


def _methods_of_four() -> dict[str, Any]:
    return {
        "graph_parallel": GraphParallelConfig(ways=4),
        "gnnpipe": GNNPipeConfig(stages=4),
        "hybrid": GNNPipeConfig(stages=2, ways=2),
    }


def _headline(result: Result) -> None:
    ratios: dict[str, list[float]] = {model: [] for model in SOURCE_MODELS}
    over_own = []
    for graph, (nodes, features, width, classes, logged) in SOURCE_GRAPHS.items():
        for model in SOURCE_MODELS:
            encoder = features * width
            initial = width if model == "gcnii" else 0
            matrices = 2 if model in ("sage", "resgcn") else 1
            weights = encoder + 32 * matrices * width * width + width * classes
            sizes = Sizes(nodes, [width] * 32, [width] * 32, weights, initial, encoder)
            cuts = list(range(4, 32, 4))
            ours = pipeline_bytes(sizes, cuts)
            if initial:
                sent = pipeline_bytes(sizes, cuts, sends_initial=True)
                over_own.append(min(ours, sent) / sent)
                ours = min(ours, sent)
            ratios[model].append(logged * GIB / ours)
            result.rows.append(
                {
                    "part": "headline",
                    "graph": graph,
                    "method": model,
                    "devices": 8,
                    "layers": 32,
                    "bytes": ours,
                    "graph_parallel_bytes_of_the_source": int(logged * GIB),
                    "ratio": ratios[model][-1],
                }
            )
    result.figures["bytes_headline_mean"] = fmean(r for some in ratios.values() for r in some)
    result.figures["bytes_headline_gcnii"] = fmean(ratios["gcnii"])
    result.figures["bytes_gcnii_over_source"] = fmean(over_own)
    deep = Sizes(232_965, [100] * 32, [100] * 32, 384_300)
    theirs = graph_parallel_bytes(deep, 607_419, 8)  # B of the source's partition
    result.rows.append({"part": "headline", "graph": "reddit", "bytes": theirs, "formula_of": "B"})


def one_epoch(settings: Any, data: GraphData, model: ModelConfig) -> tuple[int, int]:
    """Return the bytes that an epoch sent and those of the formula."""
    plan = make_plan(model, data.num_features, data.num_classes)
    method = build_method(settings, plan, data, session_of())
    sent, formula = method.epoch(0).bytes_sent, method.facts()["bytes_formula"]
    method.close()
    assert isinstance(formula, int)
    return sent, formula
