"""Generated, bundled and PyG's graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import DataConfig, load_graph


@pytest.mark.parametrize("source", ["blocks", "preferential", "grid", "rmat", "fake"])
def test_generated_graphs_are_simple_undirected_and_repeatable(source):
    config = DataConfig(source=source, nodes=900, degree=8.0, blocks=4, features=16, seed=3)
    graph = load_graph(config)
    assert graph.is_undirected
    assert not bool((graph.edge_index[0] == graph.edge_index[1]).any())
    pairs = graph.edge_index[0] * graph.num_nodes + graph.edge_index[1]
    assert len(pairs.unique()) == len(pairs)
    assert load_graph(config).digest == graph.digest
    assert load_graph(replace(config, seed=4)).digest != graph.digest


def test_block_model_has_the_homophily_and_degree_asked_for():
    config = DataConfig(source="blocks", nodes=5000, degree=12.0, blocks=5, homophily=0.7)
    graph = load_graph(config)
    same = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).float().mean()
    assert float(same) == pytest.approx(0.7 + 0.3 / 5, abs=0.02)
    assert graph.num_edges / 5000 == pytest.approx(12, rel=0.03)


def test_preferential_attachment_has_hubs_that_grow_with_the_root():
    """The oldest vertices' degree grows as √N: a power law, not a Poisson law."""
    graph = load_graph(DataConfig(source="preferential", nodes=10_000, degree=10.0))
    degree = torch.bincount(graph.edge_index[0], minlength=10_000)
    assert int(degree.max()) > 15 * float(degree.double().mean())
    assert float(degree[:100].double().mean()) > 8 * float(degree[5000:].double().mean())
    assert graph.num_edges / 10_000 == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("source", "nodes", "edges"),
    [("karate", 34, 156), ("lesmis", 77, 508), ("florentine", 15, 40), ("digits", 1797, None)],
)
def test_bundled_graphs_have_their_sizes(source, nodes, edges):
    graph = load_graph(source=source)
    assert graph.num_nodes == nodes
    assert edges is None or graph.num_edges == edges
    assert graph.is_undirected


def test_pyg_data_sets_name_the_folder_when_there_is_no_network(tmp_path, monkeypatch):
    import torch_geometric.datasets

    def offline(*arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch_geometric.datasets, "Planetoid", offline)
    config = DataConfig(source="pyg", name="Planetoid/Cora", path=str(tmp_path))
    with pytest.raises(UserError, match=rf"cannot be fetched.*{tmp_path}/Planetoid.*"):
        load_graph(config)
    with pytest.raises(UserError, match="did you mean Planetoid"):
        load_graph(DataConfig(source="pyg", name="Planetiod/Cora"))


def test_pyg_data_set_that_is_there_is_read():
    graph = load_graph(DataConfig(source="pyg", name="KarateClub"))
    assert graph.num_nodes == 34


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load_graph("digits"), r"named by its source.*load_graph\(source='digits'\)"),
        (lambda: load_graph(soruce="digits"), r"no such setting \(data.soruce=digits\).*source"),
        (lambda: load_graph(source="digits", path="graph.npz"), "data=digits reads no file"),
        (lambda: load_graph(source="blocks", nodes=1), r"\(data.nodes=1\); give more"),
        (lambda: load_graph(source="grid", nodes=2), r"\(data.nodes=2\); give more"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_calls_that_name_no_graph_are_refused_with_one_that_does(call, said):
    with pytest.raises(UserError, match=said):
        call()
