"""A small graph, small networks, and methods built on them, for the tests of the pipeline."""

from types import SimpleNamespace

import pytest
import torch
from fivefold_gnnpipe.config import ModelConfig, TrainOptions
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.graph import GraphData
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.training import Session


def graph(num_nodes=42, num_edges=110, features=9, classes=3, seed=0):
    """An undirected random graph with an isolated vertex, hubs, and unlabelled vertices."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, num_nodes - 1, (2, num_edges), generator=draw)
    ends[0, : num_edges // 4] = 0  # a hub
    ends = ends[:, ends[0] != ends[1]]
    both = torch.cat([ends, ends.flip(0)], dim=1)
    index = torch.unique(both, dim=1)
    y = torch.randint(0, classes, (num_nodes,), generator=draw)
    y[3] = -1
    place = torch.randperm(num_nodes, generator=draw)
    masks = [torch.zeros(num_nodes, dtype=torch.bool) for _ in range(3)]
    for mask, ids in zip(masks, place.tensor_split(3), strict=True):
        mask[ids] = True
    x = torch.randn(num_nodes, features, generator=draw, dtype=torch.float64)
    return GraphData(x, index, y, *masks, num_classes=classes, name="toy").checked()


def plan(data, name="gcnii", layers=6, dropout=0.3, seed=0, dtype=torch.float64, **more):
    config = ModelConfig(name=name, layers=layers, hidden=8, dropout=dropout, heads=2, **more)
    return make_plan(config, data.num_features, data.num_classes, seed=seed, dtype=dtype)


def build(settings, network, data, dtype=torch.float64, **options):
    session = Session(TrainOptions(**options), torch.device("cpu"), dtype)
    return build_method(settings, network, data, session)


def train(settings, network, data, epochs=3, dtype=torch.float64, **options):
    """Train some epochs: losses, weights, exact scores, the last report, facts."""
    method = build(settings, network, data, dtype, epochs=max(epochs, 1), **options)
    reports = [method.epoch(index) for index in range(epochs)]
    return SimpleNamespace(
        losses=[report.loss for report in reports],
        reports=reports,
        weights=method.weights(),
        logits=method.logits(),
        facts=method.facts(),
        method=method,
    )


def gap(first, second):
    """The largest difference between two sets of weights."""
    return max(float((first[k] - second[k]).abs().max()) for k in first)


@pytest.fixture
def toy():
    return SimpleNamespace(graph=graph, plan=plan, build=build, train=train, gap=gap)
