"""Settings given in Python become what the fields say, or are refused by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fivefold import UserError
from fivefold_gnnpipe import (
    DataConfig,
    GNNPipeConfig,
    GraphParallelConfig,
    ModelConfig,
    PartitionConfig,
    TrainOptions,
)
from fivefold_gnnpipe._words import Direction, Split
from fivefold_gnnpipe.config import RuntimeConfig
from fivefold_gnnpipe.pipe.config import Begin, HistoryConfig, Initial, Mode, SweepConfig

pytestmark = pytest.mark.usefixtures("untyped")


def test_words_become_members_of_their_enum():
    config = GNNPipeConfig(mode="stale", initial="send", history=HistoryConfig(init="warm"))
    assert config.mode is Mode.STALE
    assert config.initial is Initial.SEND
    assert config.history.init is Begin.WARM
    assert config.num_chunks == GNNPipeConfig().num_chunks == 8
    assert PartitionConfig(method="random").method is Split.RANDOM
    assert DataConfig(source="karate", direction="in").direction is Direction.IN


def test_numbers_tuples_and_paths_become_what_the_fields_are():
    config = GNNPipeConfig(stages=np.int64(2), cuts=(np.int32(3),), cross_gradient=1)
    assert type(config.stages) is int
    assert config.cuts == [3]
    assert type(config.cuts[0]) is int
    assert type(config.cross_gradient) is float
    assert DataConfig(path=Path("graph.npz")).path == "graph.npz"
    assert HistoryConfig(auto_refresh=1).auto_refresh == 1.0
    assert HistoryConfig(auto_refresh=None).auto_refresh is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GNNPipeConfig(mode="exakt"), r"training.mode=exakt.*did you mean exact"),
        (lambda: GNNPipeConfig(stages="2"), r"training.stages=2.*give a whole number"),
        (lambda: GNNPipeConfig(stages=2.0), r"training.stages=2.0.*give a whole number"),
        (lambda: GNNPipeConfig(stages=True), r"training.stages=true.*give a whole number"),
        (lambda: GNNPipeConfig(shuffle="no"), r"training.shuffle=no.*True or False"),
        (lambda: GNNPipeConfig(cuts=[1.5]), r"training.cuts=1.5.*a whole number"),
        (lambda: GNNPipeConfig(cuts=3), r"training.cuts=3"),
        (lambda: GNNPipeConfig(history={"refresh": 3}), r"training.history.*HistoryConfig"),
        (lambda: PartitionConfig(method="rnd"), r"training.partition.method=rnd"),
        (lambda: GraphParallelConfig(ways=None), r"training.ways.*a whole number"),
        (lambda: TrainOptions(epochs="9"), r"epochs=9.*a whole number"),
        (lambda: TrainOptions(lr="fast"), r"lr=fast.*a number"),
        (lambda: ModelConfig(name=3), r"model.name=3.*a text"),
        (lambda: DataConfig(direction="up"), r"data.direction=up.*choose one of"),
    ],
)
def test_values_of_another_kind_are_refused_by_name(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: PartitionConfig(seed=-1), "training.partition.seed"),
        (lambda: PartitionConfig(file="parts.npy"), "training.partition.file"),
        (lambda: SweepConfig(seeds=[0, -1]), "training.sweep.seeds"),
        (lambda: SweepConfig(seeds=[2, 2]), "training.sweep.seeds"),
        (lambda: SweepConfig(lr=[0.1, 0.1]), "training.sweep.lr"),
        (lambda: GNNPipeConfig(sweep=SweepConfig(seeds=[0, 1])), "training.sweep.seeds"),
        (lambda: GNNPipeConfig(sweep=SweepConfig(lr=[0.1])), "training.sweep.lr"),
        (lambda: GNNPipeConfig(mode="exact", chunks=8), "training.chunks"),
        (lambda: TrainOptions(weight_decay=float("inf")), "weight_decay"),
        (lambda: TrainOptions(clip_norm=float("inf")), "clip_norm"),
        (lambda: ModelConfig(theta=float("inf")), "model.theta"),
        (lambda: DataConfig(signal=float("nan")), "data.signal"),
        (lambda: DataConfig(degree=float("inf")), "data.degree"),
        (lambda: DataConfig(degree=1e300), "data.degree"),
        (lambda: DataConfig(nodes=10**14), "data.nodes"),
        (lambda: DataConfig(seed=-1), "data.seed"),
        (lambda: RuntimeConfig(threads=100_000), "runtime.threads"),
    ],
)
def test_what_would_be_ignored_or_end_in_a_traceback_is_refused(make, setting):
    with pytest.raises(UserError) as refused:
        make()
    assert refused.value.setting == setting
    assert refused.value.remedy


def test_a_file_beside_a_graph_that_reads_none_is_refused():
    with pytest.raises(UserError, match=r"data=digits reads no file \(data.path=g.npz\)"):
        DataConfig(source="digits", path="g.npz").require_named()
