"""What must equal full-graph training whatever the grid, and what evaluation must equal."""

import pytest
import torch
from fivefold_gnnpipe.config import GraphParallelConfig, PlainConfig
from fivefold_gnnpipe.pipe.config import GNNPipeConfig, HistoryConfig, Initial, Mode, SweepConfig

MODELS = ["gcn", "sage", "gcnii", "resgcn", "gat"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("stages", "ways"), [(1, 1), (2, 1), (6, 1), (1, 3), (2, 2)])
def test_one_chunk_a_way_equals_full_graph_training(toy, name, stages, ways):
    data = toy.graph()
    plain = toy.train(PlainConfig(), toy.plan(data, name), data)
    settings = GNNPipeConfig(stages=stages, ways=ways, mode=Mode.EXACT)
    found = toy.train(settings, toy.plan(data, name), data)
    assert found.losses == pytest.approx(plain.losses, abs=1e-12)
    assert toy.gap(found.weights, plain.weights) < 1e-10  # Adam divides by small gradients
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_stale_mode_of_one_chunk_equals_full_graph_training(toy, name):
    data = toy.graph()
    crossing = 1.0 if name == "gat" else 2.0
    settings = GNNPipeConfig(stages=1, chunks=1, cross_gradient=crossing)
    plain = toy.train(PlainConfig(), toy.plan(data, name), data)
    found = toy.train(settings, toy.plan(data, name), data)
    assert found.losses == pytest.approx(plain.losses, abs=1e-12)
    assert toy.gap(found.weights, plain.weights) < 1e-10


def test_single_precision_equals_full_graph_training_to_single_precision(toy):
    data = toy.graph()
    found, plain = (
        toy.train(settings, toy.plan(data, dtype=torch.float32), data, dtype=torch.float32, lr=1e-3)
        for settings in (GNNPipeConfig(stages=3, mode=Mode.EXACT), PlainConfig())
    )
    assert found.losses == pytest.approx(plain.losses, abs=1e-5)


@pytest.mark.parametrize("name", ["gcnii", "resgcn"])
def test_exact_ways_equal_full_graph_training_in_the_push_form_too(toy, name):
    data = toy.graph()
    plain = toy.train(PlainConfig(), toy.plan(data, name), data)
    settings = GNNPipeConfig(stages=2, ways=2, mode=Mode.EXACT, recompute=True)
    pushed = toy.train(settings, toy.plan(data, name), data)
    assert pushed.losses == pytest.approx(plain.losses, abs=1e-12)
    assert toy.gap(pushed.weights, plain.weights) < 1e-10


@pytest.mark.parametrize("ways", [2, 3])
def test_hybrid_of_one_stage_equals_graph_parallelism(toy, ways):
    data = toy.graph()
    hybrid = toy.train(GNNPipeConfig(stages=1, ways=ways, mode=Mode.EXACT), toy.plan(data), data)
    graph = toy.train(GraphParallelConfig(ways=ways), toy.plan(data), data)
    assert hybrid.losses == pytest.approx(graph.losses, abs=1e-12)
    assert toy.gap(hybrid.weights, graph.weights) < 1e-10


@pytest.mark.parametrize(
    "settings",
    [
        GNNPipeConfig(stages=2, chunks=8),
        GNNPipeConfig(stages=3, chunks=12, history=HistoryConfig(refresh=1)),
        GNNPipeConfig(stages=2, ways=2, chunks=16, initial=Initial.SEND),
        GNNPipeConfig(stages=2, mode=Mode.EXACT, initial=Initial.SEND),
    ],
)
def test_evaluation_is_the_plain_forward_pass_of_the_same_weights(toy, settings):
    data = toy.graph()
    found = toy.train(settings, toy.plan(data), data)
    fresh = toy.plan(data)
    fresh.load_state_dict(found.weights)
    plain = toy.train(PlainConfig(), fresh, data, epochs=0)
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_clipping_uses_the_norm_over_all_stages(toy, clip):
    data = toy.graph()
    settings = GNNPipeConfig(stages=3, mode=Mode.EXACT)
    found = toy.train(settings, toy.plan(data), data, clip_norm=clip, optimizer="sgd", lr=0.5)
    plain = toy.train(PlainConfig(), toy.plan(data), data, clip_norm=clip, optimizer="sgd", lr=0.5)
    assert toy.gap(found.weights, plain.weights) < 1e-12


def test_sweep_trains_every_replica_as_if_it_were_alone(toy):
    data = toy.graph()
    settings = GNNPipeConfig(
        stages=2, mode=Mode.SWEEP, sweep=SweepConfig(seeds=[0], lr=[0.01, 0.05, 0.002])
    )
    sweep = toy.train(settings, toy.plan(data), data)
    ranks = sweep.method._ranks
    for replica, rate in enumerate([0.01, 0.05, 0.002]):
        alone = toy.train(PlainConfig(), toy.plan(data), data, lr=rate)
        for stages in ranks.values():
            for name, weight in stages[replica].part.owned_state().items():
                torch.testing.assert_close(weight, alone.weights[name], rtol=0, atol=1e-10)
    single = toy.train(GNNPipeConfig(stages=2, mode=Mode.EXACT), toy.plan(data), data)
    assert sweep.reports[0].bytes_sent == 3 * single.reports[0].bytes_sent
    scores = {k: v for k, v in sweep.facts.items() if k.endswith("_val")}
    assert len(scores) == 3


def test_replica_of_another_seed_begins_as_a_run_with_that_seed(toy):
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, mode=Mode.SWEEP, sweep=SweepConfig(seeds=[0, 1]))
    sweep = toy.train(settings, toy.plan(data), data)
    alone = toy.train(PlainConfig(), toy.plan(data, seed=1), data, seed=1)
    for replicas in sweep.method._ranks.values():
        for name, weight in replicas[1].part.owned_state().items():
            torch.testing.assert_close(weight, alone.weights[name], rtol=0, atol=1e-10)


def test_isolated_vertices_and_chunks_without_labels_train(toy):
    data = toy.graph()
    alone = torch.zeros(data.num_nodes, dtype=torch.bool)
    alone[:2] = data.train_mask[:2]
    settings = GNNPipeConfig(stages=2, chunks=data.num_nodes)  # every vertex a chunk
    found = toy.train(settings, toy.plan(data), data)
    assert all(loss == loss for loss in found.losses)
