"""Counters equal the formulas to the byte; the formulas give the source's logged figures."""

import pytest
import torch
from fivefold_gnnpipe.config import GraphParallelConfig, PartitionConfig
from fivefold_gnnpipe.engine.partition import Partition, boundary
from fivefold_gnnpipe.engine.transport import Traffic
from fivefold_gnnpipe.pipe.config import GNNPipeConfig, Initial, Mode
from fivefold_gnnpipe.pipe.volume import (
    Sizes,
    crossover_layers,
    graph_parallel_bytes,
    pipeline_bytes,
    utilisation,
)

EIGHT = [4, 8, 12, 16, 20, 24, 28]


def deep(num_nodes, width, layers=32, weights=0, initial=0, encoder=0):
    return Sizes(num_nodes, [width] * layers, [width] * layers, weights, initial, encoder)


@pytest.mark.parametrize(
    ("num_nodes", "width", "sends", "expected"),
    [
        (232_965, 100, False, 1_304_604_000),  # Reddit, GCN
        (232_965, 100, True, 2_609_208_000),  # Reddit, GCNII
        (5_201, 1000, True, 582_512_000),  # Squirrel
        (89_250, 100, True, 999_600_000),  # Flickr
        (34_493, 100, True, 386_321_600),  # Physics
    ],
)
def test_pipeline_of_eight_sends_what_the_source_logged(num_nodes, width, sends, expected):
    sizes = deep(num_nodes, width, initial=width if sends else 0)
    assert pipeline_bytes(sizes, EIGHT, sends_initial=sends) == expected


def test_hybrid_of_reddit_sends_what_the_source_logged():
    sizes = deep(232_965, 100, initial=100)
    assert pipeline_bytes(sizes, [8, 16, 24], sends_initial=True) == 1_118_232_000


def test_weights_of_reddit_gcnii_in_a_ring_of_eight():
    weights = 602 * 100 + 32 * 100 * 100 + 100 * 41
    assert graph_parallel_bytes(deep(0, 0, weights=weights), 0, 8) == 21_520_800


def test_path_of_four_vertices_by_hand():
    index = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    parts = Partition(torch.tensor([0, 0, 1, 1]), 2)
    assert boundary(parts, index) == 2
    sizes = Sizes(4, [4] * 3, [4] * 3, 0)
    assert graph_parallel_bytes(sizes, 2, 2) == 192
    assert pipeline_bytes(sizes, [1]) == 128


@pytest.mark.parametrize(("leaves", "parts"), [(6, 2), (9, 4)])
def test_star_sends_its_hub_to_every_part_and_every_leaf_to_the_hub(leaves, parts):
    hub = torch.zeros(leaves, dtype=torch.int64)
    leaf = torch.arange(1, leaves + 1)
    index = torch.cat([torch.stack([hub, leaf]), torch.stack([leaf, hub])], dim=1)
    owner = torch.cat([torch.tensor([0]), 1 + (leaf - 1) % (parts - 1)])
    assert boundary(Partition(owner, parts), index) == parts - 1 + leaves


@pytest.mark.parametrize("name", ["gcn", "sage", "gcnii", "resgcn", "gat"])
@pytest.mark.parametrize(
    "settings",
    [
        GNNPipeConfig(stages=2, chunks=8, cross_gradient=1.0),
        GNNPipeConfig(stages=3, chunks=6, cross_gradient=1.0),
        GNNPipeConfig(stages=4, mode=Mode.EXACT),
        GNNPipeConfig(stages=2, ways=2, chunks=8, cross_gradient=1.0),
        GNNPipeConfig(stages=1, ways=3, chunks=6, cross_gradient=1.0),
        GNNPipeConfig(stages=2, ways=2, mode=Mode.EXACT),
        GNNPipeConfig(stages=3, chunks=6, initial=Initial.SEND, cross_gradient=1.0),
        GNNPipeConfig(stages=2, ways=2, chunks=8, initial=Initial.SEND, cross_gradient=1.0),
        GNNPipeConfig(stages=3, ways=2, initial=Initial.RECOMPUTE, cross_gradient=1.0),
    ],
)
def test_counters_equal_the_formula(toy, name, settings):
    data = toy.graph()
    found = toy.train(settings, toy.plan(data, name), data)
    for report in found.reports:
        assert report.bytes_sent == found.facts["bytes_formula"]
        assert sum(report.links.values()) == report.bytes_sent


@pytest.mark.parametrize("name", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("ways", [1, 2])
def test_features_are_never_sent(toy, name, ways):
    data = toy.graph()
    settings = GNNPipeConfig(stages=2, ways=ways, chunks=8, cross_gradient=1.0)
    found = toy.train(settings, toy.plan(data, name, encoder=False), data)
    assert found.reports[0].bytes_sent == found.facts["bytes_formula"]


def test_graph_parallel_counter_equals_the_formula(toy):
    data = toy.graph()
    for ways in (1, 2, 3, 4):
        found = toy.train(GraphParallelConfig(ways=ways), toy.plan(data), data)
        assert found.reports[0].bytes_sent == found.facts["bytes_formula"]


def test_recomputed_initial_embedding_halves_the_rows_and_adds_the_encoders_weights(toy):
    data = toy.graph()
    sizes = {}
    for how in (Initial.SEND, Initial.RECOMPUTE):
        found = toy.train(GNNPipeConfig(stages=3, chunks=12, initial=how), toy.plan(data), data)
        sizes[how] = found.reports[0].bytes_sent
    encoder = 9 * 8 + 8
    assert sizes[Initial.SEND] == 2 * 2 * data.num_nodes * 16 * 8
    assert sizes[Initial.RECOMPUTE] == sizes[Initial.SEND] // 2 + 2 * 2 * encoder * 8


@pytest.mark.parametrize(("stages", "chunks"), [(2, 8), (3, 12)])
def test_a_message_a_chunk_a_boundary_and_direction(toy, stages, chunks):
    data = toy.graph()
    settings = GNNPipeConfig(stages=stages, chunks=chunks)
    method = toy.build(settings, toy.plan(data, "resgcn"), data)
    method.epoch(0)
    ends = method._fleet.local
    rows = (Traffic.ACTIVATION, Traffic.GRADIENT)
    assert sum(end.counters.num_messages(rows) for end in ends) == 2 * (stages - 1) * chunks
    assert method._fleet._network.num_undelivered == 0


def test_crossover_and_utilisation_by_hand():
    assert crossover_layers(100, 100 * 3, 4, 64, 64) == 1.0  # the worst partition: from 1 layer on
    assert crossover_layers(100, 0, 4, 64, 64) == float("inf")
    assert utilisation(32, 8) == pytest.approx(32 / 39)


def test_better_partition_sends_less(toy):
    data = toy.graph(200, 260, seed=3)
    from fivefold_gnnpipe._words import Split
    from fivefold_gnnpipe.engine.partition import make_partition

    cut, chance = (
        boundary(
            make_partition(PartitionConfig(method=how), data.edge_index, data.num_nodes, 4),
            data.edge_index,
        )
        for how in (Split.AUTO, Split.RANDOM)
    )
    assert cut < chance
