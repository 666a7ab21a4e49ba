"""Stale training reaches full-graph accuracy (source's settings, three seeds)."""

from statistics import fmean

import pytest
import torch
from fivefold_gnnpipe import train
from fivefold_gnnpipe.config import DataConfig, ModelConfig, PlainConfig, TrainOptions
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import GNNPipeConfig

GRAPHS = {
    "digits": DataConfig(source="digits"),
    "blocks": DataConfig(source="blocks", nodes=2000, features=16, degree=10.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_stale_training_is_within_half_a_point_of_full_graph_training(graph):
    data = load_graph(GRAPHS[graph])
    scores = {"plain": [], "pipe": []}
    for seed in range(3):
        for name, settings in (
            ("plain", PlainConfig()),
            ("pipe", GNNPipeConfig(stages=2, chunks=8)),
        ):
            config = ModelConfig(name="gcnii", layers=4, hidden=32)
            plan = make_plan(config, data.num_features, data.num_classes, seed=seed)
            options = TrainOptions(epochs=200, seed=seed, eval_every=5)
            trained = train(plan, data, settings, options, device="cpu", dtype=torch.float32)
            scores[name].append(trained.scores.test)
    assert fmean(scores["pipe"]) > fmean(scores["plain"]) - 0.005
