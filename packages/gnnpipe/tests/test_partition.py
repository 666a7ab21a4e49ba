"""Parts of a graph: every vertex in one, none empty, whatever makes them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import DataConfig, PartitionConfig, load_graph, make_partition
from fivefold_gnnpipe._words import Balance, Split
from fivefold_gnnpipe.engine import partition as module
from fivefold_gnnpipe.engine.partition import best_partition, boundary, imbalance, nested_partition
from fivefold_gnnpipe.testing import tiny_graph
from hypothesis import given, settings
from hypothesis import strategies as st

WITHOUT_FILE = [s for s in Split if s is not Split.FILE]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(WITHOUT_FILE), st.integers(1, 20), st.integers(20, 60), st.integers(0, 3))
def test_every_vertex_has_a_part_and_no_part_is_empty(method, count, nodes, seed):
    data = tiny_graph(nodes, seed=seed)
    config = PartitionConfig(method, seed=seed)
    made = make_partition(config, data.edge_index, nodes, count)
    assert torch.equal(made.parts.unique(), torch.arange(count))
    members = torch.cat([made.members(part) for part in range(count)])
    assert torch.equal(members.sort().values, torch.arange(nodes))
    again = make_partition(config, data.edge_index, nodes, count)
    assert torch.equal(again.parts, made.parts)


def test_as_many_parts_as_vertices_and_no_more():
    data = tiny_graph(30)
    made = make_partition(PartitionConfig(), data.edge_index, 30, 30)
    assert sorted(made.parts.tolist()) == list(range(30))
    with pytest.raises(UserError, match="31 parts of a graph of 30 vertices"):
        make_partition(PartitionConfig(), data.edge_index, 30, 31)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(WITHOUT_FILE), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
def test_nested_parts_are_all_there_and_groups_send_what_the_best_groups_do(
    method, groups, each, seed
):
    data = tiny_graph(50, seed=seed)
    config = PartitionConfig(method, seed=seed)
    made = nested_partition(config, data.edge_index, 50, groups, groups * each)
    assert torch.equal(made.parts.unique(), torch.arange(groups * each))
    best = best_partition(config, data.edge_index, 50, groups)
    assert boundary(made.grouped(groups), data.edge_index) == boundary(best, data.edge_index)


def test_metis_and_breadth_first_cut_a_grid_far_better_than_chance():
    data = load_graph(DataConfig(source="grid", nodes=900))
    sent = {
        method: boundary(
            make_partition(PartitionConfig(method), data.edge_index, 900, 6), data.edge_index
        )
        for method in (Split.METIS, Split.BFS, Split.RANDOM)
    }
    assert sent[Split.METIS] * 5 < sent[Split.RANDOM]
    assert sent[Split.BFS] * 3 < sent[Split.RANDOM]


@pytest.mark.parametrize("method", [Split.METIS, Split.BFS])
def test_balance_keeps_what_it_names_equal(method):
    data = load_graph(DataConfig(source="preferential", nodes=3000, degree=10.0))
    edges = data.edge_index
    by_nodes = make_partition(PartitionConfig(method, Balance.NODES), edges, 3000, 4)
    by_edges = make_partition(PartitionConfig(method, Balance.EDGES), edges, 3000, 4)
    assert imbalance(by_nodes, edges)[0] < 1.1
    assert imbalance(by_edges, edges)[1] < 1.25


def test_graph_parallelism_takes_the_partition_that_sends_less():
    data = load_graph(DataConfig(source="blocks", nodes=1000, degree=8.0))
    edges = data.edge_index
    both = [
        boundary(make_partition(PartitionConfig(balance=b), edges, 1000, 4), edges)
        for b in (Balance.NODES, Balance.EDGES)
    ]
    assert boundary(best_partition(PartitionConfig(), edges, 1000, 4), edges) == min(both)


def test_unsymmetric_edges_with_loops_and_duplicates_do_no_harm():
    edges = torch.tensor([[0, 0, 0, 1, 2, 3, 3], [1, 1, 0, 2, 3, 3, 0]])
    made = make_partition(PartitionConfig(Split.METIS), edges, 5, 2)
    assert set(made.parts.tolist()) == {0, 1}


def test_file_of_numbers_is_taken_as_it_is(tmp_path):
    data, wanted = tiny_graph(20), torch.arange(20) % 3
    np.save(tmp_path / "parts.npy", wanted.numpy())
    (tmp_path / "parts.txt").write_text("\n".join(map(str, wanted.tolist())))
    for name in ("parts.npy", "parts.txt"):
        config = PartitionConfig(Split.FILE, file=str(tmp_path / name))
        assert torch.equal(make_partition(config, data.edge_index, 20, 3).parts, wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\n1\n", "2 part numbers for 20 vertices"),
        ("\n".join(["0"] * 20), "part 1 of 3 holds no vertex"),
        ("\n".join(["7"] * 20), "whole numbers from 0 to 2"),
        ("a\n", "no part numbers can be read"),
    ],
)
def test_file_that_does_not_fit_is_refused(tmp_path, text, said):
    (tmp_path / "parts.txt").write_text(text)
    config = PartitionConfig(Split.FILE, file=str(tmp_path / "parts.txt"))
    with pytest.raises(UserError, match=rf"{said}.*training.partition.file"):
        make_partition(config, tiny_graph(20).edge_index, 20, 3)


def test_pickled_part_numbers_are_not_loaded(tmp_path):
    np.save(tmp_path / "parts.npy", np.array([object()] * 20), allow_pickle=True)
    config = PartitionConfig(Split.FILE, file=str(tmp_path / "parts.npy"))
    with pytest.raises(UserError, match="no part numbers can be read"):
        make_partition(config, tiny_graph(20).edge_index, 20, 3)


def test_without_pymetis_auto_falls_back_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(module, "pymetis", None)
    data = tiny_graph()
    with caplog.at_level(logging.WARNING):
        made = make_partition(PartitionConfig(), data.edge_index, 40, 4)
    assert made.method == "bfs"
    assert "pymetis is not installed" in caplog.text
    with pytest.raises(UserError, match=r"pymetis is not installed.*method=metis"):
        make_partition(PartitionConfig(Split.METIS), data.edge_index, 40, 4)


def test_uneven_parts_are_warned_of(caplog, tmp_path):
    (tmp_path / "parts.txt").write_text("\n".join(["0"] * 39 + ["1"]))
    config = PartitionConfig(Split.FILE, file=str(tmp_path / "parts.txt"))
    with caplog.at_level(logging.WARNING):
        make_partition(config, tiny_graph().edge_index, 40, 2)
    assert "times the mean work" in caplog.text


def test_runs_of_parts_make_the_groups_of_a_hybrid():
    data = tiny_graph(40)
    made = make_partition(PartitionConfig(), data.edge_index, 40, 8)
    grouped = made.grouped(2)
    assert grouped.count == 2
    assert torch.equal(grouped.parts, (made.parts >= 4).to(torch.int64))
