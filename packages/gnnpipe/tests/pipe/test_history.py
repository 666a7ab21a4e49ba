"""The history: when it is written, what is in it, how old it is, and that a run resumes with it."""

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe.pipe.config import Begin, GNNPipeConfig, HistoryConfig, HistoryDtype, Mode
from fivefold_gnnpipe.pipe.schedule import chunk_order, positions


def stale_method(toy, history, name="resgcn", recompute=False, **options):
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, chunks=8, history=history, recompute=recompute)
    return toy.build(settings, toy.plan(data, name), data, epochs=12, **options)


def histories(method):
    return {
        (rank.part.rank, number): layer.history.clone()
        for replicas in method._ranks.values()
        for rank in replicas
        for number, layer in rank.layers.items()
        if layer.history is not None
    }


@pytest.mark.parametrize("recompute", [False, True])
def test_history_is_written_at_the_end_of_a_period_and_never_between(toy, recompute):
    method = stale_method(toy, HistoryConfig(refresh=3), recompute=recompute)
    before, ages = histories(method), []
    for epoch in range(9):
        refreshed_at = method._ranks[0][0].refreshed_at
        ages.append(epoch + 1 - refreshed_at if refreshed_at else None)
        method.epoch(epoch)
        after = histories(method)
        changed = any(not torch.equal(before[key], after[key]) for key in after)
        assert changed == ((epoch + 1) % 3 == 0)
        before = after
    assert ages == [None, None, None, 1, 2, 3, 1, 2, 3]


def test_history_begins_with_zeros_or_with_an_exact_forward_pass(toy):
    assert all(not rows.any() for rows in histories(stale_method(toy, HistoryConfig())).values())
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, chunks=8, history=HistoryConfig(init=Begin.WARM))
    plan = toy.plan(data, "resgcn")
    method = toy.build(settings, plan, data, epochs=9)
    seen = []
    plan_rows = _prepared_rows(toy.plan(data, "resgcn"), data)
    method.epoch(0)
    for (_, layer), rows in histories(method).items():
        torch.testing.assert_close(rows, plan_rows[layer], rtol=0, atol=1e-12)
        seen.append(layer)
    assert sorted(seen) == [2, 3, 4, 5, 6]  # the first layer is never stale


def _prepared_rows(plan, data):
    from fivefold_gnnpipe.engine.edges import graph_edges

    edges, rows = graph_edges(data, plan.norm, plan.loops, torch.float64), {}
    with torch.no_grad():
        h = plan.encode(data.x, torch.arange(data.num_nodes))
        for layer, block in enumerate(plan.layers, 1):
            rows[layer] = block.prepare(h)
            h = block.update(rows[layer], rows[layer], h, edges)
    return rows


def test_frozen_weights_have_no_staleness_after_a_refresh(toy):
    """Layer by layer: rows are exact one epoch after the history of those below."""
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, chunks=8, history=HistoryConfig(refresh=1))
    plan = toy.plan(data, "resgcn", dropout=0.0)
    method = toy.build(settings, plan, data, epochs=8, eval_every=1)
    for replicas in method._ranks.values():
        for group in replicas[0].optimizer.param_groups:
            group["lr"] = 0.0
    stale = [method.epoch(epoch).staleness for epoch in range(8)]
    assert stale[0][0] == 0  # the first layer is never stale
    assert min(stale[0][1:]) == 1  # the history is zeros
    assert max(stale[7]) < 1e-12


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("refresh", [1, 100])
def test_staleness_passes_a_limit_and_the_history_is_refreshed(toy, refresh, recompute):
    """Once, though the period may end in the same epoch: its rows are those of the epoch."""
    limited, usual = (
        stale_method(toy, HistoryConfig(refresh=every, auto_refresh=limit), recompute=recompute)
        for every, limit in ((refresh, 0.5), (1, None))
    )
    for method in (limited, usual):
        method.epoch(0)
        assert all(replicas[0].refreshed_at == 1 for replicas in method._ranks.values())
    kept, expected = histories(limited), histories(usual)
    assert all(torch.equal(rows, expected[key]) for key, rows in kept.items())
    assert any(rows.any() for rows in kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [HistoryDtype.FLOAT16, HistoryDtype.BFLOAT16])
def test_smaller_history_trains_and_half_precision_refuses_what_does_not_fit(toy, dtype, recompute):
    method = stale_method(toy, HistoryConfig(refresh=1, dtype=dtype), recompute=recompute)
    losses = [method.epoch(epoch).loss for epoch in range(3)]
    assert all(loss < 5 for loss in losses)
    with torch.no_grad():  # rows of layer 2 pass 65,504
        for replicas in method._ranks.values():
            replicas[0].plan.block(2).layer_norm.weight.fill_(1e6)
    if dtype is HistoryDtype.FLOAT16:
        with pytest.raises(UserError, match=r"training\.history\.dtype"):
            method.epoch(3)


@pytest.mark.parametrize("slots", [1, 2, 7, 32])
def test_every_chunk_has_one_turn_and_the_draw_depends_on_seed_and_epoch_alone(slots):
    for epoch in range(5):
        order = chunk_order(3, epoch, slots)
        assert sorted(order) == list(range(slots))
        assert order == chunk_order(3, epoch, slots)
        turn = positions(order)
        assert [order[turn[slot]] for slot in range(slots)] == list(range(slots))
    assert chunk_order(0, 0, slots, shuffle=False) == list(range(slots))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(chunk_order(seed, epoch, 16)) for seed in range(3) for epoch in range(10)}
    assert len(orders) == 30


def test_chunks_go_back_in_the_reverse_of_their_order(toy):
    method = stale_method(toy, HistoryConfig())
    method.epoch(0)
    for rank in range(2):
        forth = [stay.chunk for stay in method.stays if stay.rank == rank and not stay.backward]
        back = [stay.chunk for stay in method.stays if stay.rank == rank and stay.backward]
        assert forth == chunk_order(0, 0, 8)
        assert back == forth[::-1]


@pytest.mark.parametrize(
    "settings",
    [
        GNNPipeConfig(stages=2, chunks=8, history=HistoryConfig(refresh=3)),
        GNNPipeConfig(stages=2, ways=2, chunks=16, history=HistoryConfig(refresh=3)),
        GNNPipeConfig(stages=2, mode=Mode.EXACT),
    ],
)
def test_run_resumed_within_a_period_has_the_numbers_of_one_that_was_not_stopped(toy, settings):
    data = toy.graph()
    whole = toy.train(settings, toy.plan(data), data, epochs=9)
    first = toy.build(settings, toy.plan(data), data, epochs=9)
    losses = [first.epoch(epoch).loss for epoch in range(5)]
    weights, state = first.weights(), first.state()
    second = toy.build(settings, toy.plan(data, seed=99), data, epochs=9)
    second.load(weights, state, 5)
    losses += [second.epoch(epoch).loss for epoch in range(5, 9)]
    assert losses == whole.losses
    assert toy.gap(second.weights(), whole.weights) == 0


def test_training_that_learns_nothing_is_stopped_with_advice(toy):
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, chunks=8, history=HistoryConfig(refresh=2))
    plan = toy.plan(data, "gcn", layers=6, dropout=0.0)
    with torch.no_grad():
        for weight in plan.parameters():
            weight.zero_()
    method = toy.build(settings, plan, data, epochs=40, lr=1e-12)
    for epoch in range(40):
        method.epoch(epoch)
    with pytest.raises(UserError, match=r"guessing by frequency.*model=gcnii"):
        method.epoch(40)
