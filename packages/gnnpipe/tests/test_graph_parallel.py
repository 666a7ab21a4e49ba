"""Graph parallelism is full-graph training, and sends what the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe._words import Split
from fivefold_gnnpipe.config import (
    GraphParallelConfig,
    ModelConfig,
    PartitionConfig,
    TrainOptions,
)
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData, clean_edges
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.partition import Partition, boundary
from fivefold_gnnpipe.engine.plan import LayerPlan
from fivefold_gnnpipe.engine.training import Session
from fivefold_gnnpipe.engine.wrapping import plan_of
from fivefold_gnnpipe.testing import GraphTrainingSuite, plain_run, tiny_graph
from torch import nn
from torch_geometric.nn import GIN, SAGEConv


class TestOneWay(GraphTrainingSuite):
    overrides = ["training=graph_parallel", "training.ways=1"]
    models = ["gcnii", "gat"]


class TestThreeWays(GraphTrainingSuite):
    overrides = ["training=graph_parallel", "training.ways=3"]


class TestFourContiguousWays(GraphTrainingSuite):
    overrides = [
        "training=graph_parallel",
        "training.ways=4",
        "training.partition.method=contiguous",
    ]
    models = ["sage", "gcnii"]


def graph_of(edges: list[tuple[int, int]], num_nodes: int) -> GraphData:
    index, _ = clean_edges(torch.tensor(edges).T, num_nodes, undirected=True)
    y = torch.arange(num_nodes) % 2
    mask = torch.ones(num_nodes, dtype=torch.bool)
    x = torch.randn(num_nodes, 3, generator=torch.Generator().manual_seed(0))
    return GraphData(x, index, y, mask, ~mask, ~mask, num_classes=2)


def trained_in_parts(
    data: GraphData, parts: list[int], plan: LayerPlan, tmp_path, options: TrainOptions
):
    file = tmp_path / "parts.npy"
    np.save(file, np.array(parts))
    partition = PartitionConfig(Split.FILE, file=str(file))
    settings = GraphParallelConfig(ways=max(parts) + 1, partition=partition)
    method = build_method(
        settings, plan, data, Session(options, dtype=next(plan.parameters()).dtype)
    )
    reports = [method.epoch(index) for index in range(options.epochs)]
    return method, reports


def small_plan(data: GraphData, layers: int, hidden: int, dtype: torch.dtype) -> LayerPlan:
    config = ModelConfig(name="gcn", layers=layers, hidden=hidden, dropout=0.0)
    return make_plan(config, data.num_features, data.num_classes, dtype=dtype)


def test_path_in_two_halves_sends_the_golden_bytes(tmp_path):
    """0-1-2-3 in {0,1}, {2,3}: B = 2; three layers of width 4 in float32 send 192 bytes."""
    data = graph_of([(0, 1), (1, 2), (2, 3)], 4)
    plan = small_plan(data, layers=3, hidden=4, dtype=torch.float32)
    method, (report,) = trained_in_parts(data, [0, 0, 1, 1], plan, tmp_path, TrainOptions(epochs=1))
    weights = 2 * plan.num_parameters() * 4
    assert method.facts()["boundary_rows"] == 2
    assert report.bytes_sent == 192 + weights


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_star_has_a_boundary_of_leaves_and_other_parts(parts):
    """The hub in part 0, n leaves in the others: B = (P - 1) + n."""
    leaves = 11
    data = graph_of([(0, leaf) for leaf in range(1, leaves + 1)], leaves + 1)
    owner = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.arange(leaves) % (parts - 1)])
    assert boundary(Partition(owner, parts), data.edge_index) == parts - 1 + leaves


def test_boundary_equals_counting_by_hand():
    data = tiny_graph(60, seed=4)
    parts = torch.from_numpy(np.random.default_rng(0).integers(4, size=60))
    pairs = {(int(u), int(parts[v])) for u, v in data.edge_index.T.tolist() if parts[u] != parts[v]}
    assert boundary(Partition(parts, 4), data.edge_index) == len(pairs)


@pytest.mark.parametrize(
    ("edges", "parts"),
    [
        ([(0, 1), (2, 3)], [0, 0, 1, 1]),  # nothing crosses
        ([(0, 1), (1, 2)], [0, 1, 0, 2]),  # vertex 3 alone, in a part of its own
        ([(0, 3), (1, 3), (2, 3)], [0, 1, 2, 3]),  # every vertex a part
    ],
)
def test_empty_boundaries_and_isolated_parts_are_exact(edges, parts, tmp_path):
    data, options = graph_of(edges, 4), TrainOptions(epochs=3)
    method, reports = trained_in_parts(
        data, parts, small_plan(data, 3, 4, torch.float64), tmp_path, options
    )
    expected, weights = plain_run(
        small_plan(data, 3, 4, torch.float64), data, options, torch.float64
    )
    assert [report.loss for report in reports] == pytest.approx(expected, abs=1e-12)
    found = method.weights()
    assert max(float((found[k] - weights[k]).abs().max()) for k in weights) < 1e-12


def test_first_layer_on_features_sends_nothing_for_it():
    """Features are copied once: the formula counts the other layers only."""
    data = tiny_graph()
    config = ModelConfig(name="gcn", layers=3, hidden=8, encoder=False, dropout=0.5)
    plan = make_plan(config, data.num_features, data.num_classes, dtype=torch.float64)
    again = make_plan(config, data.num_features, data.num_classes, dtype=torch.float64)
    method = build_method(
        GraphParallelConfig(ways=2),
        plan,
        data,
        Session(TrainOptions(epochs=2), dtype=torch.float64),
    )
    reports = [method.epoch(index) for index in range(2)]
    rows = method.facts()["boundary_rows"]
    assert reports[0].bytes_sent == (2 * rows * 16 + 2 * plan.num_parameters()) * 8
    expected, _ = plain_run(again, data, TrainOptions(epochs=2), torch.float64)
    assert [report.loss for report in reports] == pytest.approx(expected, abs=1e-12)


def test_users_own_convolutions_train_alike():
    data, options = tiny_graph(), TrainOptions(epochs=3)

    def own() -> LayerPlan:
        torch.manual_seed(0)
        convs = nn.ModuleList([SAGEConv(7, 8, aggr="max"), SAGEConv(8, 3, aggr="mean")])
        return plan_of(convs, num_features=7, num_classes=3, dropout=0.2).double()

    session = Session(options, dtype=torch.float64)
    method = build_method(GraphParallelConfig(ways=3), own(), data, session)
    losses = [method.epoch(index).loss for index in range(3)]
    assert losses == pytest.approx(plain_run(own(), data, options, torch.float64)[0], abs=1e-12)


def test_batch_norm_is_refused_with_its_name():
    data = tiny_graph()
    plan = plan_of(GIN(7, 8, 2, 3, norm="batch_norm"), num_features=7, num_classes=3)
    with pytest.raises(UserError, match=r"BatchNorm.*training"):
        build_method(GraphParallelConfig(ways=2), plan, data, Session(TrainOptions()))


def test_trained_weights_are_in_the_callers_plan_after_close():
    data = tiny_graph()
    plan = small_plan(data, 2, 4, torch.float32)
    before = {name: value.clone() for name, value in plan.state_dict().items()}
    method = build_method(GraphParallelConfig(ways=2), plan, data, Session(TrainOptions(epochs=1)))
    method.epoch(0)
    trained = method.weights()
    method.close()
    assert all(torch.equal(value, trained[name]) for name, value in plan.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in plan.state_dict().items())


def test_link_rate_sets_the_simulated_wait():
    """B rows at 1 Mbit/s take at least bytes / rate on the busiest link."""
    data = tiny_graph()
    settings = GraphParallelConfig(ways=2)
    settings.transport.emulate_mbit = 1.0
    plan = small_plan(data, 2, 8, torch.float32)
    method = build_method(settings, plan, data, Session(TrainOptions(epochs=1)))
    report = method.epoch(0)
    busiest = max(report.links.values()) * 8 / 1e6
    assert report.seconds >= busiest
    assert report.seconds_waited >= 0.5 * busiest
