"""Training on a GPU equals training on the CPU, whatever the method."""

import dataclasses

import pytest
import torch
from fivefold_gnnpipe.config import GraphParallelConfig, PlainConfig, TrainOptions
from fivefold_gnnpipe.engine.api import build_method
from fivefold_gnnpipe.engine.training import Session
from fivefold_gnnpipe.pipe.config import GNNPipeConfig, Mode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
METHODS = {
    "plain": PlainConfig(),
    "graph parallel": GraphParallelConfig(ways=2),
    "exact": GNNPipeConfig(stages=2, mode=Mode.EXACT),
    "exact hybrid": GNNPipeConfig(stages=2, ways=2, mode=Mode.EXACT),
    "stale": GNNPipeConfig(stages=2, chunks=4),
}


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", ["gcn", "sage", "gcnii", "resgcn", "gat"])
def test_losses_weights_and_scores_are_those_of_the_cpu(toy, name, settings):
    if name == "gat" and isinstance(settings, GNNPipeConfig):
        settings = dataclasses.replace(settings, cross_gradient=1.0)
    data, found = toy.graph(), {}
    for device in ("cpu", "cuda"):
        session = Session(TrainOptions(epochs=3), torch.device(device), torch.float64)
        method = build_method(settings, toy.plan(data, name), data, session)
        losses = [method.epoch(index).loss for index in range(3)]
        found[device] = losses, method.weights(), method.logits()
        method.close()
    on_cpu, on_gpu = found["cpu"], found["cuda"]
    assert on_gpu[0] == pytest.approx(on_cpu[0], abs=1e-10)
    assert toy.gap(on_gpu[1], on_cpu[1]) < 1e-8
    torch.testing.assert_close(on_gpu[2].cpu(), on_cpu[2], rtol=0, atol=1e-7)
