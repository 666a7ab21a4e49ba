"""`train`, `plan_of` and `predict` refuse what is easily given instead, and say what to give."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import (
    GNNPipeConfig,
    LayerPlan,
    ModelConfig,
    TrainOptions,
    make_plan,
    plan_of,
    train,
)
from fivefold_gnnpipe.testing import tiny_graph
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

pytestmark = pytest.mark.usefixtures("untyped")


DATA = tiny_graph()
ONCE = TrainOptions(epochs=1)


def convs(features: int = 7, classes: int = 3) -> nn.ModuleList:
    return nn.ModuleList([SAGEConv(features, 4), SAGEConv(4, classes)])


def plan(features: int = 7, classes: int = 3, **more: object) -> LayerPlan:
    return plan_of(convs(features, classes), num_features=features, num_classes=classes, **more)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: train(convs(), DATA, GNNPipeConfig(), ONCE), r"a ModuleList is no plan.*plan_of"),
        (lambda: train(plan(), Data(x=DATA.x), None, ONCE), r"a Data is no graph.*load_graph"),
        (lambda: train(plan(), DATA, None, {"epochs": 1}), r"a dict is no TrainOptions.*epochs="),
        (lambda: train(plan(), DATA, {"stages": 2}, ONCE), r"a dict is no training.*PlainConfig"),
        (lambda: train(plan(), DATA, GNNPipeConfig, ONCE), r"class GNNPipeConfig.*GNNPipeConfig\("),
        (lambda: train(plan(6), DATA, None, ONCE), "takes 6 features, and the graph has 7"),
        (lambda: train(plan(7, 5), DATA, None, ONCE), "makes 5 scores, and the graph has 3"),
        (lambda: train(plan(), DATA, None, ONCE, dtype=torch.float16), "dtype=torch.float16"),
        (lambda: train(plan(), DATA, None, ONCE, device="tpu"), r"unknown device.*cpu, cuda"),
        (lambda: plan(dropout=1.5), r"model.dropout=1.5.*from 0 to below 1"),
        (lambda: plan(dropout=-0.5), r"model.dropout=-0.5"),
        (lambda: plan(activation=nn.ReLU()), r"activation=torch.nn.ReLU"),
        (lambda: plan(activation=torch.relu), r"activation=torch.nn.ReLU"),
        (lambda: plan(activation=lambda: 3), r"activation=torch.nn.ReLU"),
    ],
)
def test_misuse_is_refused_with_the_right_call(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_activations_may_be_a_class_or_a_function_that_makes_one():
    for activation in (nn.ReLU, nn.LeakyReLU, lambda: nn.ELU(2.0)):
        assert train(plan(activation=activation), DATA, None, ONCE).curve.points


def test_a_device_of_torch_is_taken_and_the_predicted_graph_must_fit():
    trained = train(plan(), DATA, None, ONCE, device=torch.device("cpu"))
    assert trained.predict(DATA).shape == (40, 3)
    with pytest.raises(UserError, match="takes 7 features, and the graph has 5"):
        trained.predict(tiny_graph(num_features=5))


def test_checking_leaves_the_network_as_it_was():
    given = plan(dropout=0.5).eval()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    with pytest.raises(UserError, match="no training method"):
        train(given, DATA, object(), ONCE)
    assert not given.training
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda features: None, r"failed on \(7, 3\).*model.name=own_networks:make.*features"),
        (lambda features, classes: 1 / 0, "division by zero"),
        (lambda features, classes: plan(features, classes + 1), "makes 4 scores"),
        (lambda features, classes: nn.Linear(1, 1), "Linear is neither a ModuleList"),
    ],
)
def test_function_of_a_user_that_makes_no_fitting_network_is_named(monkeypatch, function, said):
    monkeypatch.setitem(sys.modules, "own_networks", SimpleNamespace(make=function))
    with pytest.raises(UserError, match=said):
        make_plan(ModelConfig(name="own_networks:make"), 7, 3)
