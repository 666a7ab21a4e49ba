"""The networks equal PyG's layers, and a user's own become plans or are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import ModelConfig, Norm, graph_edges, make_plan
from fivefold_gnnpipe.engine.models import GCNBlock, ResGCNBlock, SAGEBlock
from fivefold_gnnpipe.engine.plan import LayerPlan
from fivefold_gnnpipe.engine.wrapping import plan_of
from fivefold_gnnpipe.testing import tiny_graph
from torch import nn
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    DeepGCNLayer,
    GATConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GENConv,
    GINConv,
    GraphConv,
    GraphSAGE,
    SAGEConv,
    TransformerConv,
)

DATA = tiny_graph()
X = DATA.x.double()


def run(plan: LayerPlan) -> torch.Tensor:
    plan = plan.double().eval()
    return plan(X, graph_edges(DATA, plan.norm, plan.loops, torch.float64))


def test_gcn_block_is_gcn_conv():
    block, conv = GCNBlock(7, 5).double(), GCNConv(7, 5).double()
    conv.lin.weight.data, conv.bias.data = block.linear.weight.data, block.linear.bias.data
    edges = graph_edges(DATA, Norm.SYM, True, torch.float64)
    assert torch.allclose(block.update(X, X, X, edges), conv(X, DATA.edge_index).relu(), atol=1e-13)


def test_sage_block_is_sage_conv():
    block, conv = SAGEBlock(7, 5).double(), SAGEConv(7, 5).double()
    conv.lin_r.weight.data, conv.lin_l.bias.data = block.own.weight.data, block.own.bias.data
    conv.lin_l.weight.data = block.neighbours.weight.data
    edges = graph_edges(DATA, Norm.MEAN, False, torch.float64)
    assert torch.allclose(block.update(X, X, X, edges), conv(X, DATA.edge_index).relu(), atol=1e-13)


def test_resgcn_block_is_a_deep_gcn_layer_around_sage():
    block, conv = ResGCNBlock(7).double(), SAGEConv(7, 7).double()
    conv.lin_r.weight.data, conv.lin_l.bias.data = block.own.weight.data, block.own.bias.data
    conv.lin_l.weight.data = block.neighbours.weight.data
    layer = DeepGCNLayer(conv, nn.LayerNorm(7).double(), nn.ReLU(), block="res+", dropout=0.0)
    edges = graph_edges(DATA, Norm.MEAN, False, torch.float64)
    prepared = block.prepare(X)
    assert torch.allclose(
        block.update(prepared, prepared, X, edges), layer(X, DATA.edge_index), atol=1e-13
    )


def test_gat_is_pygs_layer_with_the_graphs_loops():
    plan = make_plan(ModelConfig(name="gat", layers=1, hidden=6, heads=2, dropout=0.0), 7, 3)
    plan = plan.double()
    block = plan.block(1)
    whole = GATConv(6, 3, 2).double()  # adds loops itself
    whole.load_state_dict(block.conv.state_dict())
    h = X[:, :6]
    edges = graph_edges(DATA, plan.norm, plan.loops, torch.float64)
    expected = nn.functional.elu(whole(h, DATA.edge_index))
    assert torch.allclose(block.update(h, h, h, edges), expected, atol=1e-13)


@pytest.mark.parametrize("name", ["gcn", "sage", "gcnii", "resgcn", "gat"])
def test_same_seed_makes_the_same_weights_and_leaves_torchs_stream(name):
    torch.manual_seed(3)
    config = ModelConfig(name=name, layers=3, hidden=8)
    first = make_plan(config, 7, 3, seed=4).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    second = make_plan(config, 7, 3, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


CONVS = {
    "sage": lambda i, o: SAGEConv(i, o),
    "sage-max": lambda i, o: SAGEConv(i, o, aggr="max"),
    "gcn": lambda i, o: GCNConv(i, o),
    "gcn-bare": lambda i, o: GCNConv(i, o, normalize=False, add_self_loops=False, bias=False),
    "gat": lambda i, o: GATConv(i, o, heads=2, concat=False),
    "gatv2": lambda i, o: GATv2Conv(i, o, add_self_loops=False),
    "graph": lambda i, o: GraphConv(i, o),
    "gin": lambda i, o: GINConv(nn.Linear(i, o)),
    "transformer": lambda i, o: TransformerConv(i, o),
    "gen": lambda i, o: GENConv(i, o),
}


@pytest.mark.parametrize("kind", CONVS)
def test_module_list_gives_what_calling_its_layers_gives(kind):
    torch.manual_seed(0)
    convs = nn.ModuleList([CONVS[kind](7, 8), CONVS[kind](8, 3)]).double().eval()
    with torch.no_grad():
        expected = convs[1](convs[0](X, DATA.edge_index).relu(), DATA.edge_index)
    plan = plan_of(convs, num_features=7, num_classes=3)
    assert torch.allclose(run(plan), expected, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        GCN(7, 8, 3, 3),
        GraphSAGE(7, 8, 3, 3, act="elu"),
        GAT(7, 8, 3, 3, heads=2),
        GIN(7, 8, 3, 3),
        GraphSAGE(7, 8, 3, 3, norm="layer_norm", norm_kwargs={"mode": "node"}),
        GCN(7, 8, 3, 3, norm="batch_norm"),
    ],
    ids=["gcn", "sage", "gat", "gin", "layer-norm", "batch-norm"],
)
def test_pygs_own_networks_become_plans_with_the_same_scores(model):
    model = model.double().eval()
    with torch.no_grad():
        expected = model(X, DATA.edge_index)
    assert torch.allclose(run(plan_of(model, num_features=7, num_classes=3)), expected, atol=1e-12)


def test_gcn2_layers_read_the_encoders_output():
    torch.manual_seed(0)
    convs = nn.ModuleList(
        GCN2Conv(8, 0.1, 0.5, layer, shared_weights=layer == 1) for layer in (1, 2)
    ).double()
    encoder, head = nn.Linear(7, 8).double(), nn.Linear(8, 3).double()
    with torch.no_grad():
        h = h0 = encoder(X)
        for conv in convs:
            h = conv(h, h0, DATA.edge_index).relu()
        expected = head(h)
    plan = plan_of(convs, num_features=7, num_classes=3, encoder=encoder, head=head)
    assert plan.initial
    assert torch.allclose(run(plan), expected, atol=1e-12)


def test_weights_are_shared_not_copied():
    convs = nn.ModuleList([SAGEConv(7, 3)])
    plan = plan_of(convs, num_features=7, num_classes=3)
    convs[0].lin_l.weight.data.zero_()
    assert all(bool((w == 0).all()) for n, w in plan.named_parameters() if "lin_l.weight" in n)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (GraphSAGE(7, 8, 2, 3, jk="cat"), "jumping knowledge would carry.*16 columns"),
        (GraphSAGE(7, 8, 2, 3, act_first=True, norm="layer_norm"), "act_first"),
        (nn.ModuleList([GCNConv(7, 8), SAGEConv(8, 3)]), "different edges: GCNConv, SAGEConv"),
        (nn.ModuleList([GATConv(7, 3, dropout=0.5)]), "GATConv drops out by itself"),
        (nn.ModuleList([nn.Linear(7, 3)]), "Linear is no PyG convolution"),
        (nn.ModuleList([SAGEConv(7, 8)]), "8 columns, and the graph has 3 classes"),
        (nn.ModuleList([SAGEConv(9, 3)]), "width 7"),
        (nn.ModuleList([]), "no convolution"),
        (nn.Linear(7, 3), "neither a ModuleList"),
        (GCNConv(7, 3), "neither a ModuleList"),
    ],
)
def test_what_cannot_be_a_plan_is_refused(model, said):
    with pytest.raises(UserError, match=said):
        plan_of(model, num_features=7, num_classes=3)


def test_layers_that_need_all_vertices_are_named():
    plan = plan_of(GIN(7, 8, 2, 3, norm="batch_norm"), num_features=7, num_classes=3)
    assert "BatchNorm" in plan.mixes_vertices
    graph_wide = plan_of(GraphSAGE(7, 8, 2, 3, norm="layer_norm"), num_features=7, num_classes=3)
    assert graph_wide.mixes_vertices == "LayerNorm"  # PyG's is over the whole graph
    assert make_plan(ModelConfig(name="resgcn", layers=2), 7, 3).mixes_vertices == ""


def test_own_function_is_imported_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\nfrom torch_geometric.nn import SAGEConv\n"
        "def two(features, classes):\n"
        "    return nn.ModuleList([SAGEConv(features, 8), SAGEConv(8, classes)])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = make_plan(ModelConfig(name="my_nets:two", dropout=0.1), 7, 3)
    assert plan.num_blocks == 2
    assert plan.dropout == 0.1
    for name in ("my_nets:three", "no_such_module:two"):
        with pytest.raises(UserError, match=rf"cannot be found.*model.name={name}"):
            make_plan(ModelConfig(name=name), 7, 3)


def test_symmetric_normalisation_of_a_directed_graph_is_refused():
    directed = replace(DATA, edge_index=DATA.edge_index[:, ::3])
    with pytest.raises(UserError, match=r"data.direction"):
        graph_edges(directed, Norm.SYM, True)
    assert graph_edges(directed, Norm.MEAN, False).num_edges == directed.num_edges
