"""GNNPipe sits the exam of graph training methods."""

from fivefold_gnnpipe.testing import GraphTrainingSuite


class TestExactPipeline(GraphTrainingSuite):
    overrides = [
        "training=gnnpipe",
        "training.stages=2",
        "training.cuts=[2]",
        "training.mode=exact",
    ]


class TestExactHybrid(GraphTrainingSuite):
    overrides = [
        "training=gnnpipe",
        "training.stages=2",
        "training.cuts=[2]",
        "training.ways=2",
        "training.mode=exact",
    ]


class TestStalePipeline(GraphTrainingSuite):
    overrides = [
        "training=gnnpipe",
        "training.stages=2",
        "training.cuts=[2]",
        "training.chunks=8",
        "training.cross_gradient=1",
        "training.history.refresh=2",
    ]
    is_exact = False
