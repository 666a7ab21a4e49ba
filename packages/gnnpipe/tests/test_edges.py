"""Sparse products, their gradients, and rows with their halo, against dense matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import Edges, Norm, graph_edges
from fivefold_gnnpipe.testing import tiny_graph
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = [(Norm.SYM, True), (Norm.SYM, False), (Norm.MEAN, False), (Norm.NONE, True)]


def dense(edges: Edges) -> torch.Tensor:
    matrix = torch.zeros(edges.num_dst, edges.num_src, dtype=torch.float64)
    weight = edges.edge_weight
    weight = torch.ones(edges.num_edges) if weight is None else weight
    return matrix.index_put_(
        (edges.edge_index[1], edges.edge_index[0]), weight.double(), accumulate=True
    )


@pytest.mark.parametrize(("norm", "loops"), KINDS)
def test_product_and_gradient_are_the_dense_matrixs(norm, loops):
    edges = graph_edges(tiny_graph(), norm, loops, torch.float64)
    rows = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    given_gradient = torch.randn(40, 5, dtype=torch.float64)
    product = edges.matmul(rows)
    product.backward(given_gradient)
    assert torch.allclose(product, dense(edges) @ rows, atol=1e-13)
    assert torch.allclose(rows.grad, dense(edges).T @ given_gradient, atol=1e-13)


def test_symmetric_normalisation_is_one_over_roots_of_degrees():
    data = tiny_graph()
    adjacency = torch.zeros(40, 40, dtype=torch.float64)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    adjacency += torch.eye(40)
    root = adjacency.sum(1).rsqrt()
    expected = root[:, None] * adjacency * root
    assert torch.allclose(dense(graph_edges(data, Norm.SYM, True, torch.float64)), expected)


def test_mean_of_no_neighbour_is_zero():
    edges = graph_edges(tiny_graph(), Norm.MEAN, False, torch.float64)
    sums = dense(edges).sum(1)
    assert sums[-1] == 0  # the isolated vertex
    assert torch.allclose(sums[sums > 0], torch.ones(int((sums > 0).sum()), dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 39), min_size=1), st.sampled_from(KINDS), st.integers(0, 3))
def test_rows_with_their_halo_give_the_whole_product_there(ids, kind, seed):
    data = tiny_graph(seed=seed)
    edges = graph_edges(data, *kind, torch.float64)
    wanted = torch.tensor(sorted(ids))
    rows = edges.rows(wanted)
    x = torch.randn(40, 3, dtype=torch.float64)
    assert torch.equal(rows.halo[rows.own], wanted)
    assert bool((rows.halo.diff() > 0).all())
    local = rows.edges.matmul(x[rows.halo])
    assert torch.allclose(local, (dense(edges) @ x)[wanted], atol=1e-13)
    neighbours = {int(u) for u, v in edges.edge_index.T.tolist() if v in ids}
    assert set(rows.halo.tolist()) == neighbours | ids


def test_rows_of_a_vertex_without_edges_are_legal():
    rows = graph_edges(tiny_graph(), Norm.MEAN, False).rows(torch.tensor([39]))
    assert rows.edges.num_edges == 0
    assert torch.equal(rows.edges.matmul(torch.ones(1, 2)), torch.zeros(1, 2))


def test_second_derivative_is_not_asked_for_and_format_must_agree():
    edges = graph_edges(tiny_graph(), Norm.SYM, True, torch.float64)
    with pytest.raises(TypeError, match="float64"):
        edges.matmul(torch.ones(40, 2))
    assert edges.to(dtype=torch.float32).matmul(torch.ones(40, 2)).dtype is torch.float32


def test_weights_that_sum_to_less_than_nothing_are_refused_where_roots_are_taken():
    data = tiny_graph()
    below = replace(data, edge_weight=-torch.ones(data.num_edges))
    with pytest.raises(UserError, match=r"sum to less than 0.*data.path"):
        graph_edges(below, Norm.SYM, False)
    kept = graph_edges(below, Norm.NONE, False).edge_weight
    assert torch.equal(kept, below.edge_weight)
