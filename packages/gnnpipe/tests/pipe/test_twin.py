"""The staged executor against one equation, one autograd graph, and arithmetic by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from fivefold_gnnpipe.config import PartitionConfig, PlainConfig
from fivefold_gnnpipe.engine.dropout import keyed_dropout
from fivefold_gnnpipe.engine.edges import Edges, graph_edges
from fivefold_gnnpipe.engine.plan import Masks
from fivefold_gnnpipe.pipe.config import (
    FirstLayer,
    GNNPipeConfig,
    HistoryConfig,
    HistoryDropout,
    Initial,
)
from fivefold_gnnpipe.pipe.schedule import chunk_order, positions
from fivefold_gnnpipe.pipe.twin import Splits, _Aggregate, twin_by_autograd, twin_epoch

EPOCHS = 5


def twin_run(plan, data, method, settings, epochs=EPOCHS, by_autograd=False):
    """Train the twin on the same chunks and orders: losses and weights."""
    plan = copy.deepcopy(plan)
    edges = graph_edges(data, plan.norm, plan.loops, torch.float64)
    parts, slots = method._layout.partition.parts, method._layout.num_slots
    optimizer = torch.optim.Adam(plan.parameters(), lr=0.01)
    history = [torch.zeros(data.num_nodes, b.in_width, dtype=torch.float64) for b in plan.layers]
    losses, fresh = [], settings.first_layer is FirstLayer.FRESH
    for epoch in range(epochs):
        turn = torch.tensor(positions(chunk_order(0, epoch, slots, shuffle=settings.shuffle)))
        turn = turn[parts % slots]
        masks = Masks(plan.dropout, 0, epoch)
        optimizer.zero_grad()
        if by_autograd:
            found = twin_by_autograd(plan, data, edges, masks, turn, history, first_is_fresh=fresh)
        else:
            found = twin_epoch(
                plan,
                data,
                edges,
                masks,
                turn,
                history,
                crossing=settings.cross_gradient,
                first_is_fresh=fresh or plan.first_reads_features,
                is_frozen=settings.history.dropout is HistoryDropout.FROZEN,
            )
        found.loss.backward()
        optimizer.step()
        losses.append(float(found.loss.detach()))
        if (epoch + 1) % settings.history.refresh == 0:
            history = found.stored
    return losses, dict(plan.state_dict())


def compare(toy, name, settings, by_autograd=False, **more):
    data = toy.graph()
    plan = toy.plan(data, name, **more)
    found = toy.train(settings, copy.deepcopy(plan), data, epochs=EPOCHS)
    losses, weights = twin_run(plan, data, found.method, settings, by_autograd=by_autograd)
    assert found.losses == pytest.approx(losses, abs=1e-12)
    assert toy.gap(found.weights, weights) < 1e-10
    return found


@pytest.mark.parametrize("name", ["gcn", "sage", "gcnii", "resgcn"])
@pytest.mark.parametrize(
    ("stages", "crossing", "chunks", "refresh"),
    [
        (1, 2.0, 8, 2),
        (2, 1.0, 5, 1),
        (2, 2.0, 8, 20),
        (3, 2.0, 5, 2),
        (6, 1.0, 8, 2),
        (6, 2.0, 6, 1),
    ],
)
def test_staged_executor_equals_the_equation(toy, name, stages, crossing, chunks, refresh):
    settings = GNNPipeConfig(
        stages=stages,
        chunks=chunks,
        cross_gradient=crossing,
        history=HistoryConfig(refresh=refresh),
    )
    compare(toy, name, settings)


@pytest.mark.parametrize("name", ["sage", "gcnii", "resgcn"])
@pytest.mark.parametrize(("chunks", "recompute"), [(2, False), (5, False), (5, True)])
@pytest.mark.parametrize("first", list(FirstLayer))
@pytest.mark.parametrize("dropout", list(HistoryDropout))
def test_every_technique_equals_the_equation(toy, name, chunks, recompute, first, dropout):
    settings = GNNPipeConfig(
        stages=2,
        chunks=chunks,
        recompute=recompute,  # the push form; without it layers of these models pull
        first_layer=first,
        history=HistoryConfig(refresh=2, dropout=dropout),
    )
    compare(toy, name, settings)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropout", list(HistoryDropout))
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("name", ["gcn", "sage"])
def test_first_layer_that_reads_features_is_never_stale(toy, name, ways, dropout, recompute):
    settings = GNNPipeConfig(
        stages=2,
        ways=ways,
        chunks=6 * ways,
        recompute=recompute,
        history=HistoryConfig(refresh=2, dropout=dropout),
    )
    compare(toy, name, settings, encoder=False)


def test_attention_over_features_is_never_stale(toy):
    settings = GNNPipeConfig(stages=2, chunks=6, cross_gradient=1.0)
    compare(toy, "gat", settings, by_autograd=True, encoder=False)


@pytest.mark.parametrize("name", ["gat", "sage", "gcnii", "resgcn"])
@pytest.mark.parametrize("first", list(FirstLayer))
def test_push_form_equals_one_autograd_graph_with_detached_history(toy, name, first):
    settings = GNNPipeConfig(
        stages=2,
        chunks=6,
        cross_gradient=1.0,
        first_layer=first,
        recompute=True,  # layers that could pull push
        history=HistoryConfig(refresh=2),
    )
    compare(toy, name, settings, by_autograd=True)


@pytest.mark.parametrize("name", ["gcnii", "resgcn", "sage"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("stages", "ways"), [(1, 2), (2, 2), (3, 3)])
def test_hybrid_equals_the_equation_with_slots_for_chunks(toy, name, stages, ways, recompute):
    settings = GNNPipeConfig(
        stages=stages,
        ways=ways,
        chunks=4 * stages * ways,
        recompute=recompute,
        history=HistoryConfig(refresh=2),
    )
    compare(toy, name, settings)


@pytest.mark.parametrize("first", list(FirstLayer))
def test_recomputation_gives_the_same_bits(toy, first):
    data = toy.graph()
    runs = []
    for recompute in (False, True):
        settings = GNNPipeConfig(
            stages=2,
            chunks=8,
            recompute=recompute,
            cross_gradient=1.0,
            first_layer=first,
            history=HistoryConfig(refresh=2),
        )
        runs.append(toy.train(settings, toy.plan(data, "gat"), data, epochs=EPOCHS))
    assert runs[0].losses == runs[1].losses
    assert toy.gap(runs[0].weights, runs[1].weights) == 0


@pytest.mark.parametrize("cuts", [[1], [2], [3], [5]])
def test_results_do_not_depend_on_cuts_by_a_single_bit(toy, cuts):
    data = toy.graph()
    one = toy.train(GNNPipeConfig(stages=1, chunks=8), toy.plan(data, "resgcn"), data)
    two = toy.train(GNNPipeConfig(stages=2, chunks=8, cuts=cuts), toy.plan(data, "resgcn"), data)
    assert one.losses == two.losses
    assert toy.gap(one.weights, two.weights) == 0


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("first", list(FirstLayer))
def test_recomputed_initial_embedding_equals_the_one_that_is_sent(toy, first, ways):
    data = toy.graph()
    runs = [
        toy.train(
            GNNPipeConfig(stages=2, ways=ways, chunks=16, initial=how, first_layer=first),
            toy.plan(data),
            data,
        )
        for how in (Initial.RECOMPUTE, Initial.SEND)
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, abs=1e-12)
    assert toy.gap(runs[0].weights, runs[1].weights) < 1e-10


def test_two_vertices_and_one_edge_by_hand():
    """The source's section 4.2: A is all 0.5, values 1 and 3, history 0, gradient (1, 1)."""
    index = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
    edges = Edges(index, torch.full((4,), 0.5), 2, 2)
    expected = {
        ((0, 1), 1.0): ([0.5, 2.0], [1.0, 0.5]),
        ((0, 1), 2.0): ([0.5, 2.0], [1.5, 0.5]),
        ((1, 0), 1.0): ([2.0, 1.5], [0.5, 1.0]),
        ((1, 0), 2.0): ([2.0, 1.5], [0.5, 1.5]),
    }
    for (turn, crossing), (aggregate, gradient) in expected.items():
        rows = torch.tensor([[1.0], [3.0]], requires_grad=True)
        splits = Splits.of(edges, torch.tensor(turn), crossing)
        agg = _Aggregate.apply(rows, torch.zeros(2, 1), splits)
        agg.sum().backward()
        assert agg.flatten().tolist() == aggregate
        assert rows.grad.flatten().tolist() == gradient
    means = torch.tensor([expected[o, 2.0][1] for o in ((0, 1), (1, 0))]).mean(0)
    assert means.tolist() == [1.0, 1.0]  # the gradient of full-graph training


@pytest.mark.parametrize(("crossing", "is_gradient"), [(1.0, True), (2.0, False)])
def test_finite_difference_matches_with_factor_one_and_not_with_two(toy, crossing, is_gradient):
    data = toy.graph()
    settings = GNNPipeConfig(
        stages=2, chunks=8, cross_gradient=crossing, first_layer=FirstLayer.STALE
    )
    start = toy.plan(data)
    direction = {
        name: torch.randn(
            weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        for name, weight in start.named_parameters()
    }

    def loss_at(step):
        moved = copy.deepcopy(start)
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                weight += step * direction[name]
        return toy.train(settings, moved, data, epochs=1).losses[0]

    method = toy.build(settings, copy.deepcopy(start), data, optimizer="sgd", lr=1e-9)
    method.epoch(0)
    slope = sum(
        float((parameter.grad * direction[name]).sum())
        for replicas in method._ranks.values()
        for name, parameter in replicas[0].parameters.items()
        if replicas[0].part.is_first or not name.startswith("encoder.")
    )
    eps = 1e-6
    difference = (loss_at(eps) - loss_at(-eps)) / (2 * eps)
    assert (slope == pytest.approx(difference, rel=1e-6)) is is_gradient


def relabelled(data, order):
    """The same graph with vertex `order[i]` called `i`."""
    place = torch.empty_like(order)
    place[order] = torch.arange(data.num_nodes)
    names = ("x", "y", "train_mask", "val_mask", "test_mask")
    moved = {name: getattr(data, name)[order] for name in names}
    return replace(data, edge_index=place[data.edge_index], **moved)


def test_relabelled_vertices_give_the_same_loss(toy):
    data = toy.graph()
    order = torch.randperm(data.num_nodes, generator=torch.Generator().manual_seed(5))
    parts = torch.arange(data.num_nodes) % 8
    losses = []
    for graph, numbers in ((data, parts), (relabelled(data, order), parts[order])):
        method = _with_parts(toy, graph, numbers)
        losses.append([method.epoch(index).loss for index in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def _with_parts(toy, data, numbers, tmp=None):
    import tempfile
    from pathlib import Path

    import numpy as np
    from fivefold_gnnpipe._words import Split

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.npy"
        np.save(path, numbers.numpy())
        partition = PartitionConfig(method=Split.FILE, file=str(path))
        settings = GNNPipeConfig(
            stages=2, chunks=8, partition=partition, history=HistoryConfig(refresh=2)
        )
        return toy.build(settings, toy.plan(data, dropout=0.0), data)


def test_dropout_masks_are_those_of_the_vertex_in_every_grid():
    rows = torch.ones(10, 6)
    ids = torch.arange(10)
    whole = keyed_dropout(rows, 0.5, 1234, ids)
    for chunk in (ids[2:5], ids[7:], ids.flip(0)):
        assert torch.equal(keyed_dropout(rows[chunk], 0.5, 1234, chunk), whole[chunk])


def test_loss_of_chunks_is_the_loss_of_the_graph(toy):
    data = toy.graph()
    plain = toy.train(PlainConfig(), toy.plan(data, dropout=0.0), data, epochs=1)
    settings = GNNPipeConfig(stages=1, chunks=1, partition=PartitionConfig())
    whole = toy.train(settings, toy.plan(data, dropout=0.0), data, epochs=1)
    assert whole.losses == pytest.approx(plain.losses, abs=1e-13)
