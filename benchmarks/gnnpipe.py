"""GNNPipe against graph parallelism and one device: bytes, time, accuracy, what it costs alone.

`python benchmarks/gnnpipe.py [--quick] [--only PART,…] [--out DIR]` writes `DIR/result.json` and
its pictures. Parts: volume, time, accuracy, alone, gpu. Figures:

- `bytes_graph_over_pipe_debian`: bytes an epoch of graph parallelism (the best partition found)
  over the pipeline's, Debian graph, 32 layers, 4 devices; `bytes_graph_over_pipe_preferential`: the
  same on a preferential-attachment graph. Counters of both are compared with the formulas.
- `bytes_headline_mean`: over the source's four graphs and four models at 8 devices and 32 layers,
  the mean of (the source's logged graph-parallel total) / (our pipeline, all-reduces counted);
  `bytes_headline_gcnii`: GCNII alone; `bytes_gcnii_over_source`: ours over the source's own.
- `epoch_graph_over_pipe`: seconds an epoch, two real processes in namespaces on a link on which
  graph parallelism communicates for 70 % of its epoch; `_4`: four processes. Where namespaces are
  not allowed the names end in `_simulated`.
- `planner_worst_error`: |predicted / measured - 1|, the worse of the two methods.
- `accuracy_worst_difference_points`: pipeline minus full graph, test accuracy at the best
  validation epoch, upper end of the 95 % interval over paired seeds, the worst of the cells;
  `accuracy_worst_mean_points`: the worst mean; `epochs_to_95_percent_ratio`: the worst of the
  cells, epochs to 95 % of the full graph's final validation accuracy.
- `plain_overhead`: an epoch of one process with K = 1 over the same model in plain PyG.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig, PlainConfig
from fivefold_gnnpipe._words import Split, Wire
from fivefold_gnnpipe.config import (
    DataConfig,
    ModelConfig,
    PartitionConfig,
    TrainOptions,
    TransportConfig,
)
from fivefold_gnnpipe.engine.api import build_method, make_session
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.loop import Curve, fit
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import HistoryConfig, Mode
from fivefold_gnnpipe.pipe.planner import prospect
from fivefold_gnnpipe.pipe.volume import Sizes, graph_parallel_bytes, pipeline_bytes
from gnnpipe_link import namespaces_work, timed
from gnnpipe_plots import draw_accuracy, draw_growth, draw_rates
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

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
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    name: str
    data: dict[str, Any]
    layers: int
    hidden: int
    epochs_timed: int
    rates: Sequence[float]
    accuracy: Sequence[tuple[str, int, int]]
    accuracy_epochs: int
    accuracy_hidden: int
    refresh: int
    growth_nodes: Sequence[int]
    growth_layers: Sequence[int]


FULL = Case(
    name="full",
    data={"source": "debian"},
    layers=32,
    hidden=64,
    epochs_timed=4,
    rates=(10.0, 100.0, 1000.0, 10_000.0),
    accuracy=(("gcnii", 8, 8), ("resgcn", 8, 8), ("gcnii", 32, 3), ("resgcn", 32, 3)),
    accuracy_epochs=200,
    accuracy_hidden=32,
    refresh=20,
    growth_nodes=(50_000, 100_000, 200_000, 500_000, 1_000_000),
    growth_layers=(4, 8, 16, 32),
)
QUICK = Case(
    name="blocks graph of 4,000 vertices, 8 layers, 16 columns",
    data={"source": "blocks", "nodes": 4000, "features": 32, "degree": 10.0},
    layers=8,
    hidden=16,
    epochs_timed=3,
    rates=(10.0, 1000.0),
    accuracy=(("gcnii", 4, 2), ("resgcn", 4, 2)),
    accuracy_epochs=40,
    accuracy_hidden=16,
    refresh=4,
    growth_nodes=(2_000, 4_000, 8_000),
    growth_layers=(2, 4, 8),
)


def session_of(epochs: int = 1 << 20, **options: Any) -> Any:
    """Return a session on the processor, single precision."""
    every = options.pop("eval_every", epochs)
    made = TrainOptions(epochs=epochs, eval_every=every, checkpoint_every=0, **options)
    return make_session(made, "cpu", torch.float32)


def one_epoch(settings: Any, data: GraphData, model: ModelConfig) -> tuple[int, int]:
    """Return the bytes that an epoch sent and those of the formula."""
    plan = make_plan(model, data.num_features, data.num_classes)
    method = build_method(settings, plan, data, session_of())
    sent, formula = method.epoch(0).bytes_sent, method.facts()["bytes_formula"]
    method.close()
    assert isinstance(formula, int)
    return sent, formula


# ------------------------------------------------------------------------------------------ volume


def volume(case: Case, result: Result) -> None:
    """Compare counters with formulas, and methods with one another."""
    deep = ModelConfig(name="resgcn", layers=case.layers, hidden=case.hidden)
    preferential = {"source": "preferential", "nodes": 50_000, "degree": 50.0, "features": 16}
    if case is QUICK:
        preferential["nodes"] = 4000
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


# -------------------------------------------------------------------------------------------- time


def epoch_time(case: Case, result: Result, out: Path) -> None:
    """Train on real processes over a shaped link, and compare with the planner."""
    torch.set_num_threads(1)
    real = namespaces_work()
    suffix = "" if real else "_simulated"
    result.environment["link"] = "network namespaces" if real else "simulated in one process"
    errors = []
    for size in (2, 4):
        rate = _rate_of_70_percent(case, size, real)
        times = _both(case, size, rate, real)
        ratio = times["graph_parallel"] / times["gnnpipe"]
        name = "epoch_graph_over_pipe" + ("" if size == 2 else f"_{size}") + suffix
        result.figures[name] = ratio
        predicted = _predicted(case, size, rate)
        for method, seconds in times.items():
            error = abs(predicted[method] / seconds - 1)
            errors += [error] if size == 2 else []
            result.rows.append(
                {
                    "part": "time",
                    "method": method,
                    "processes": size,
                    "mbit": rate,
                    "seconds": seconds,
                    "predicted": predicted[method],
                    "error": error,
                    "real": real,
                }
            )
    result.figures["planner_worst_error" + suffix] = max(errors)
    plain = timed(_case_of(case, "plain", {}), 1, None, 3600)
    result.rows.append(
        {"part": "time", "method": "plain", "processes": 1, "seconds": plain["seconds"]}
    )
    curve = []
    for rate in case.rates:
        times = _both(case, 2, rate, real)
        curve.append((rate, times["graph_parallel"], times["gnnpipe"]))
        result.rows.append({"part": "rates", "processes": 2, "mbit": rate, "real": real, **times})
    result.figures["crossing_mbit" + suffix] = _crossing(curve)
    draw_rates(curve, plain["seconds"], out / "rates.png", real=real)


def _case_of(case: Case, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": case.data,
        "model": {"name": "resgcn", "layers": case.layers, "hidden": case.hidden},
        "method": method,
        "settings": settings,
        "epochs": case.epochs_timed,
    }


def _both(case: Case, size: int, rate: float, real: bool) -> dict[str, float]:
    """Return the seconds an epoch of both methods at a rate."""
    if not real:
        return _predicted(case, size, rate)
    return {
        method: float(timed(_case_of(case, method, settings), size, rate, 7200)["seconds"])
        for method, settings in (("graph_parallel", {}), ("gnnpipe", {"stages": size}))
    }


def _rate_of_70_percent(case: Case, size: int, real: bool) -> float:
    """Return the link on which graph parallelism communicates for 70 % of its epoch."""
    if real:
        free = timed(_case_of(case, "graph_parallel", {}), size, None, 3600)
        compute, sent = free["seconds"] - free["waited"], free["bytes"]
    else:
        data, model = load_graph(DataConfig(**case.data)), _model(case)
        plan = make_plan(model, data.num_features, data.num_classes)
        settings = GraphParallelConfig(ways=size, transport=TransportConfig(kind=Wire.LOOPBACK))
        method = build_method(settings, plan, data, session_of())
        reports = [method.epoch(index) for index in range(3)]
        compute, sent = reports[-1].seconds_compute, reports[-1].bytes_sent
        method.close()
    return float(sent / size * 8 / 1e6 / (compute * 0.7 / 0.3))


def _model(case: Case) -> ModelConfig:
    return ModelConfig(name="resgcn", layers=case.layers, hidden=case.hidden)


def _predicted(case: Case, size: int, rate: float) -> dict[str, float]:
    """Return what the planner says of both methods."""
    data = load_graph(DataConfig(**case.data))
    plan = make_plan(_model(case), data.num_features, data.num_classes)
    found = prospect(plan, data, session_of(), GNNPipeConfig(stages=size), size, rate)
    named = {"graph parallel": "graph_parallel", "pipeline": "gnnpipe"}
    return {
        named[way.name]: way.seconds
        for way in found.ways
        if way.name in named and way.seconds is not None
    }


def _crossing(curve: Sequence[tuple[float, float, float]]) -> float | None:
    """Return the rate at which graph parallelism becomes as fast, by interpolation in log rate."""
    for (rate, graph, pipe), (after, next_graph, next_pipe) in pairwise(curve):
        here, there = math.log(graph / pipe), math.log(next_graph / next_pipe)
        if here > 0 >= there:
            share = here / (here - there)
            return float(rate * (after / rate) ** share)
    return None


# ---------------------------------------------------------------------------------------- accuracy


def accuracy(case: Case, result: Result, out: Path) -> None:
    """Train with and without the pipeline on paired seeds."""
    data = load_graph(DataConfig(**case.data))
    uppers, means, slower, curves = [], [], [], {}
    for model, layers, seeds in case.accuracy:
        differences = []
        for seed in range(seeds):
            pair = {}
            for method, settings in _pair(case).items():
                curve = _trained(case, data, model, layers, seed, settings)
                pair[method] = curve
                result.rows.append(
                    {
                        "part": "accuracy",
                        "model": model,
                        "layers": layers,
                        "seed": seed,
                        "method": method,
                        "val": curve.best.val,
                        "test": curve.best.test,
                        "best_epoch": curve.best_epoch,
                        "final_loss": curve.points[-1].loss,
                        "digest": data.digest,
                    }
                )
            curves[model, layers, seed] = pair
            plain, pipe = pair["plain"].best.test, pair["gnnpipe"].best.test
            assert plain is not None
            assert pipe is not None
            differences.append(100 * (pipe - plain))
            slower.append(_epochs_to_95(pair["gnnpipe"], pair["plain"]))
        mean = fmean(differences)
        half = T_95[seeds - 1] * stdev(differences) / seeds**0.5
        means.append(mean)
        uppers.append(mean + half)
        result.rows.append(
            {
                "part": "accuracy_cell",
                "model": model,
                "layers": layers,
                "seeds": seeds,
                "mean_points": mean,
                "low_points": mean - half,
                "high_points": mean + half,
            }
        )
    result.figures["accuracy_worst_difference_points"] = min(uppers)
    result.figures["accuracy_worst_mean_points"] = min(means)
    known = [ratio for ratio in slower if ratio is not None]
    result.figures["epochs_to_95_percent_ratio"] = max(known) if known else None
    draw_accuracy(curves, out / "accuracy.png")


def _pair(case: Case) -> dict[str, Any]:
    history = HistoryConfig(refresh=case.refresh)
    return {"plain": PlainConfig(), "gnnpipe": GNNPipeConfig(stages=2, history=history)}


def _trained(
    case: Case, data: GraphData, model: str, layers: int, seed: int, settings: Any
) -> Curve:
    config = ModelConfig(name=model, layers=layers, hidden=case.accuracy_hidden)
    plan = make_plan(config, data.num_features, data.num_classes, seed=seed)
    rate = 0.02 if layers <= 8 else 0.01
    session = session_of(case.accuracy_epochs, seed=seed, lr=rate, eval_every=5)
    method = build_method(settings, plan, data, session)
    outcome = fit(method, data, session.options)
    method.close()
    return outcome.curve


def _epochs_to_95(pipe: Curve, plain: Curve) -> float | None:
    """Return epochs of the pipeline over those of the full graph to 95 % of its final score."""
    wanted = 0.95 * (plain.last.val or 0.0)
    reached = [
        next((p.epoch for p in curve.points if p.val is not None and p.val >= wanted), None)
        for curve in (pipe, plain)
    ]
    return reached[0] / reached[1] if reached[0] and reached[1] else None


# ------------------------------------------------------------------------------------------- alone


class PlainGCNII(nn.Module):
    """GCNII in plain PyG, with a sparse adjacency."""

    def __init__(self, features: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden
        self.encoder, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.convs = nn.ModuleList(
            GCN2Conv(width, config.alpha, config.theta, layer, normalize=False)
            for layer in range(1, config.layers + 1)
        )
        self.dropout = config.dropout

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Return the scores of all vertices."""
        drop = nn.functional.dropout
        h = h0 = self.encoder(drop(x, self.dropout, self.training)).relu()
        for conv in self.convs:
            h = conv(drop(h, self.dropout, self.training), h0, adjacency).relu()
        scores: Tensor = self.head(drop(h, self.dropout, self.training))
        return scores


def alone(case: Case, result: Result, out: Path) -> None:
    """Measure what the executor costs with nothing to divide, and how it grows."""
    data = load_graph(DataConfig(**case.data))
    config = ModelConfig(name="gcnii", layers=min(case.layers, 8), hidden=case.hidden)
    plain, ours = _pyg_epochs(data, config), _exact_epochs(data, config)
    times: dict[str, list[float]] = {"pyg": [], "gnnpipe": []}
    for _ in range(3 + 5):  # interleaved: what else the machine does falls on both
        times["pyg"].append(next(plain))
        times["gnnpipe"].append(next(ours))
    pyg, pipe = (median(times[name][3:]) for name in ("pyg", "gnnpipe"))
    result.figures["plain_overhead"] = pipe / pyg
    result.rows.append({"part": "alone", "seconds_pyg": pyg, "seconds_one_chunk": pipe})
    rows = list(_growth(case))
    result.rows.extend(rows)
    draw_growth(rows, out / "growth.png")


def _pyg_epochs(data: GraphData, config: ModelConfig) -> Iterator[float]:
    torch.manual_seed(0)
    model = PlainGCNII(data.num_features, data.num_classes, config).train()
    index, weight = gcn_norm(data.edge_index, None, data.num_nodes, False, True)
    adjacency = torch.sparse_coo_tensor(
        index.flip(0), weight, (data.num_nodes, data.num_nodes), check_invariants=False
    ).to_sparse_csr()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    known = data.train_mask & (data.y >= 0)
    while True:
        begin = time.perf_counter()
        optimizer.zero_grad()
        logits = model(data.x, adjacency)
        nn.functional.cross_entropy(logits[known], data.y[known]).backward()
        optimizer.step()
        yield time.perf_counter() - begin


def _exact_epochs(data: GraphData, config: ModelConfig) -> Iterator[float]:
    plan = make_plan(config, data.num_features, data.num_classes)
    method = build_method(GNNPipeConfig(stages=1, mode=Mode.EXACT), plan, data, session_of())
    index = 0
    while True:
        begin = time.perf_counter()
        method.epoch(index)
        index += 1
        yield time.perf_counter() - begin


def _growth(case: Case) -> Iterator[dict[str, Any]]:
    """Yield time and memory of one pipelined epoch over vertices, edges and layers."""
    base: dict[str, Any] = {"source": "blocks", "features": 32, "degree": 10.0}
    few, deep = case.growth_nodes[0], case.growth_layers[0]
    cells = [("nodes", {**base, "nodes": nodes}, deep) for nodes in case.growth_nodes]
    cells += [("edges", {**base, "nodes": few, "degree": d}, deep) for d in (5.0, 10.0, 20.0, 40.0)]
    cells += [("layers", {**base, "nodes": few}, layers) for layers in case.growth_layers]
    for axis, source, layers in cells:
        data = load_graph(DataConfig(**source))
        plan = make_plan(ModelConfig(name="resgcn", layers=layers, hidden=32), 32, data.num_classes)
        method = build_method(
            GNNPipeConfig(
                stages=2,
                recompute=True,
                partition=PartitionConfig(method=Split.CONTIGUOUS),
            ),
            plan,
            data,
            session_of(),
        )
        method.epoch(0)
        begin = time.perf_counter()
        method.epoch(1)
        seconds = time.perf_counter() - begin
        yield {
            "part": "growth",
            "axis": axis,
            "nodes": data.num_nodes,
            "edges": data.num_edges,
            "layers": layers,
            "seconds": seconds,
            "peak_memory_bytes": method.facts()["peak_memory_bytes"],
        }
        method.close()


# --------------------------------------------------------------------------------------------- gpu


def gpu(case: Case, result: Result) -> None:
    """Time the chunked executor against full-graph training on one GPU, where there is one."""
    if not torch.cuda.is_available():
        result.environment["gpu"] = "none at hand"
        result.figures["gpu_chunked_over_plain"] = None
        return
    data = load_graph(DataConfig(**case.data))
    seconds = {}
    for name, settings in (("plain", PlainConfig()), ("gnnpipe", GNNPipeConfig(stages=2))):
        plan = make_plan(_model(case), data.num_features, data.num_classes)
        options = TrainOptions(epochs=1 << 20, eval_every=1 << 20)
        method = build_method(settings, plan, data, make_session(options, "cuda", torch.float32))
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


def main() -> None:
    """Measure what is asked for and write `result.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small case, in minutes")
    parser.add_argument("--only", default="volume,time,accuracy,alone,gpu", help="parts")
    parser.add_argument("--out", default="docs/benchmarks/gnnpipe", help="folder of the record")
    words = parser.parse_args()
    case, out = QUICK if words.quick else FULL, Path(words.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    result = Result("benchmark gnnpipe")
    result.environment["threads"] = 1
    if case is QUICK:
        result.environment["quick_case"] = case.name
    parts = {
        "volume": lambda: volume(case, result),
        "time": lambda: epoch_time(case, result, out),
        "accuracy": lambda: accuracy(case, result, out),
        "alone": lambda: alone(case, result, out),
        "gpu": lambda: gpu(case, result),
    }
    for name in words.only.split(","):
        parts[name]()
        result.write(out)  # what is measured is kept, whatever becomes of the rest
    print(result.as_json())


if __name__ == "__main__":
    main()
