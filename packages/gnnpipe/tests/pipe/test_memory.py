"""What a stage holds (the source's section 4.7), counted by storages."""

import pytest
import torch
from fivefold_gnnpipe.engine.memory import PeakBytes
from fivefold_gnnpipe.pipe.config import GNNPipeConfig, HistoryConfig


def trained(toy, layers, stages, name="gcnii", num_nodes=400, recompute=True):
    """A method after its first epoch, whose bytes each rank counted."""
    data = toy.graph(num_nodes, 1200)
    settings = GNNPipeConfig(
        stages=stages,
        chunks=40,
        cuts=[layers // stages * k for k in range(1, stages)],
        recompute=recompute,
        history=HistoryConfig(refresh=2),
    )
    method = toy.build(settings, toy.plan(data, name, layers=layers), data, epochs=500)
    method.epoch(0)
    return method


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize(("recompute", "rows"), [(True, 3), (False, 2)])
def test_buffers_are_two_or_three_rows_a_vertex_and_layer(toy, stages, recompute, rows):
    layers, num_nodes = 8, 400
    method = trained(toy, layers, stages, recompute=recompute)
    for replicas in method._ranks.values():
        held = sum(layer.held_bytes() for layer in replicas[0].layers.values())
        assert held <= rows * (layers // stages) * num_nodes * 8 * 8


@pytest.mark.parametrize("name", ["gcnii", "resgcn"])
def test_what_a_stage_adds_does_not_grow_with_the_depth_of_the_network(toy, name):
    """At two layers a stage, of 4 layers and of 8."""
    shallow, deep = (
        max(meter.peak for meter in trained(toy, layers, layers // 2, name)._meters.values())
        for layers in (4, 8)
    )
    assert deep < 1.1 * shallow
    assert shallow < 24 * 400 * 8 * 8


@pytest.mark.parametrize("name", ["gcnii", "resgcn"])
def test_recomputation_keeps_less_than_activations(toy, name):
    data = toy.graph(400, 1200)
    peaks = {}
    for recompute in (False, True):
        settings = GNNPipeConfig(stages=2, chunks=40, recompute=recompute)
        method = toy.build(settings, toy.plan(data, name, layers=8), data, epochs=500)
        method.epoch(0)
        with PeakBytes() as meter:
            method.epoch(1)
        peaks[recompute] = meter.peak
    assert peaks[True] < 0.7 * peaks[False]


def test_peak_of_every_rank_is_reported(toy):
    data = toy.graph()
    found = toy.train(GNNPipeConfig(stages=3, chunks=12), toy.plan(data), data, epochs=1)
    peaks = [found.facts[f"peak_memory_bytes_rank_{rank}"] for rank in range(3)]
    assert found.facts["peak_memory_bytes"] == max(peaks)
    assert min(peaks) > 0
    assert torch.is_tensor(found.logits)
