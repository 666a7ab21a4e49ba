"""Training on one device, against the same networks written with PyG's own layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fivefold import UserError
from fivefold_gnnpipe.config import ModelConfig, PlainConfig, TrainOptions
from fivefold_gnnpipe.engine.api import build_method, train
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.training import Session
from fivefold_gnnpipe.testing import GraphTrainingSuite, tiny_graph
from torch_geometric.nn import GCN2Conv


class TestPlain(GraphTrainingSuite):
    overrides = ["training=plain"]


def test_training_equals_a_pyg_network_with_adam():
    """GCNII written with GCN2Conv and trained by hand gives the same losses, in float64."""
    data = tiny_graph()
    config = ModelConfig(name="gcnii", layers=5, hidden=6, dropout=0.0, alpha=0.2, theta=0.7)
    plan = make_plan(config, 7, 3, seed=1, dtype=torch.float64)
    convs = [GCN2Conv(6, 0.2, 0.7, layer, cached=False).double() for layer in range(1, 6)]
    into, out = torch.nn.Linear(7, 6).double(), torch.nn.Linear(6, 3).double()
    into.load_state_dict(plan.encoder[0].state_dict())
    out.load_state_dict(plan.head.state_dict())
    for conv, block in zip(convs, plan.layers, strict=True):
        conv.weight1.data = block.linear.weight.data.T.clone()  # stored the other way round
    weights = [*into.parameters(), *out.parameters(), *(c.weight1 for c in convs)]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    counted, expected = data.train_mask & (data.y >= 0), []
    for _ in range(4):
        optimizer.zero_grad()
        h = h0 = into(data.x.double()).relu()
        for conv in convs:
            h = conv(h, h0, data.edge_index).relu()
        loss = F.cross_entropy(out(h)[counted], data.y[counted])
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    trained = train(plan, data, PlainConfig(), TrainOptions(epochs=4), dtype=torch.float64)
    assert [point.loss for point in trained.curve.points] == pytest.approx(expected, abs=1e-12)


def test_several_processes_are_refused():
    plan = make_plan(ModelConfig(layers=1), 7, 3)
    session = Session(TrainOptions(), world=2)
    with pytest.raises(UserError, match=r"one process, and torchrun started 2 \(training=plain\)"):
        build_method(PlainConfig(), plan, tiny_graph(), session)


def test_peak_memory_grows_with_layers_on_one_device():
    """The activations of every layer wait for the backward pass."""
    data = tiny_graph(400)

    def peak(layers: int) -> int:
        plan = make_plan(ModelConfig(layers=layers, hidden=32), 7, 3)
        trained = train(plan, data, options=TrainOptions(epochs=1))
        return trained.facts["peak_memory_bytes"]

    few, many = peak(2), peak(12)
    row_bytes = 400 * 32 * 4
    assert few > 2 * row_bytes
    assert many - few > 10 * row_bytes


def test_settings_of_no_method_are_refused():
    with pytest.raises(UserError, match="ModelConfig is no training method's settings"):
        train(make_plan(ModelConfig(layers=1), 7, 3), tiny_graph(), ModelConfig())


def test_diverging_loss_ends_with_the_setting():
    plan = make_plan(ModelConfig(name="gcn", layers=2), 7, 3)
    options = TrainOptions(epochs=30, lr=1e30, optimizer="sgd")
    with pytest.raises(UserError, match=r"the loss is .* \(lr\).*lower it"):
        train(plan, tiny_graph(), options=options)
