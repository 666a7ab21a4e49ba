"""What the executor costs with nothing to divide, and how it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fivefold.result import Result
from fivefold_gnnpipe import GNNPipeConfig
from fivefold_gnnpipe._words import Split
from fivefold_gnnpipe.config import DataConfig, ModelConfig, PartitionConfig
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import Mode
from gnnpipe_case import Case, session_of
from gnnpipe_plots import draw_growth
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv
from torch_geometric.nn.conv.gcn_conv import gcn_norm


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


def measure_alone(case: Case, result: Result, out: Path) -> None:
    """Measure what the executor costs with nothing to divide, and how it grows."""
    data = load_graph(DataConfig(**case.data))
    config = ModelConfig(name="gcnii", layers=min(case.layers, 8), hidden=case.hidden)
    plan = make_plan(config, data.num_features, data.num_classes)
    method = build_method(GNNPipeConfig(stages=1, mode=Mode.EXACT), plan, data, session_of())
    plain = pyg_step(data, config, torch.device("cpu"))
    times: dict[str, list[float]] = {"pyg": [], "gnnpipe": []}
    for index in range(3 + 5):  # interleaved: what else the machine does falls on both
        times["pyg"].append(_seconds(plain))
        times["gnnpipe"].append(_seconds(lambda index=index: method.epoch(index)))  # type: ignore[misc]
    pyg, pipe = (median(times[name][3:]) for name in ("pyg", "gnnpipe"))
    result.figures["plain_overhead"] = pipe / pyg
    result.rows.append({"part": "alone", "seconds_pyg": pyg, "seconds_one_chunk": pipe})
    rows = list(_growth(case))
    result.rows.extend(rows)
    draw_growth(rows, out / "growth.png")


def pyg_step(data: GraphData, config: ModelConfig, device: torch.device) -> Callable[[], None]:
    """Return what trains plain PyG's GCNII for an epoch."""
    torch.manual_seed(0)
    model = PlainGCNII(data.num_features, data.num_classes, config).to(device).train()
    index, weight = gcn_norm(data.edge_index, None, data.num_nodes, False, True)
    adjacency = torch.sparse_coo_tensor(
        index.flip(0), weight, (data.num_nodes, data.num_nodes), check_invariants=False
    ).to_sparse_csr()
    adjacency, x, y = adjacency.to(device), data.x.to(device), data.y.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    known = (data.train_mask & (data.y >= 0)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        logits = model(x, adjacency)
        nn.functional.cross_entropy(logits[known], y[known]).backward()
        optimizer.step()

    return step


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


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
