"""What does not fit is refused with its setting and a remedy, or said when it is unwise."""

import logging

import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe.config import PartitionConfig, TransportConfig
from fivefold_gnnpipe.engine.plan import ConvBlock, LayerPlan
from fivefold_gnnpipe.pipe.config import (
    GNNPipeConfig,
    HistoryConfig,
    Mode,
    PlanConfig,
    SweepConfig,
)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: GNNPipeConfig(stages=0), "training.stages"),
        (lambda: GNNPipeConfig(ways=0), "training.ways"),
        (lambda: GNNPipeConfig(stages=4, chunks=3), "training.chunks"),
        (lambda: GNNPipeConfig(ways=2, chunks=9), "training.chunks"),
        (lambda: GNNPipeConfig(chunks=-1), "training.chunks"),
        (lambda: GNNPipeConfig(stages=3, cuts=[2]), "training.cuts"),
        (lambda: GNNPipeConfig(stages=3, cuts=[2, 2]), "training.cuts"),
        (lambda: GNNPipeConfig(stages=2, cuts=[0]), "training.cuts"),
        (lambda: GNNPipeConfig(cross_gradient=-1.0), "training.cross_gradient"),
        (lambda: GNNPipeConfig(mode=Mode.SWEEP), "training.sweep.seeds"),
        (lambda: SweepConfig(lr=[0.0]), "training.sweep.lr"),
        (lambda: HistoryConfig(refresh=0), "training.history.refresh"),
        (lambda: HistoryConfig(auto_refresh=0.0), "training.history.auto_refresh"),
        (lambda: PlanConfig(link_mbit=0.0), "link_mbit"),
        (lambda: PlanConfig(devices=-1), "devices"),
        (lambda: TransportConfig(emulate_mbit=0.0), "training.transport.emulate_mbit"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(make, setting):
    with pytest.raises(UserError) as refused:
        make()
    assert refused.value.setting == setting
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        (GNNPipeConfig(stages=7), "gcnii", "7 stages of a model of 6 layers"),
        (GNNPipeConfig(stages=2, cuts=[6]), "gcnii", "the last stage has no layer"),
        (GNNPipeConfig(stages=2), "gat", "training.cross_gradient=1"),
        (GNNPipeConfig(stages=2, chunks=64), "gcnii", "64 chunks of a graph of 42 vertices"),
        (
            GNNPipeConfig(mode=Mode.SWEEP, ways=2, sweep=SweepConfig(seeds=[0])),
            "gcnii",
            "training.ways=1",
        ),
    ],
)
def test_what_does_not_suit_the_model_or_graph_is_refused(toy, settings, name, words):
    data = toy.graph()
    with pytest.raises(UserError) as refused:
        toy.build(settings, toy.plan(data, name), data)
    assert words in str(refused.value)


@pytest.mark.parametrize("ways", [1, 2])
def test_batch_norm_is_refused_where_a_chunk_has_a_part_of_the_graph(toy, ways):
    from torch_geometric.nn import SAGEConv

    data = toy.graph()

    def plan():
        blocks = [
            ConvBlock(SAGEConv((8, 8), 8), 8, 8, norm=torch.nn.BatchNorm1d(8)) for _ in range(3)
        ]
        encoder = torch.nn.Linear(data.num_features, 8)
        head = torch.nn.Linear(8, 3)
        made = LayerPlan(blocks, num_features=data.num_features, encoder=encoder, head=head)
        return made.double()

    mode = Mode.STALE if ways == 1 else Mode.EXACT
    with pytest.raises(UserError, match=r"BatchNorm1d.*LayerNorm"):
        toy.build(GNNPipeConfig(stages=2, ways=ways, mode=mode), plan(), data)
    toy.train(GNNPipeConfig(stages=2, mode=Mode.EXACT), plan(), data)


def test_partition_file_of_the_wrong_length_is_refused(toy, tmp_path):
    from fivefold_gnnpipe._words import Split

    path = tmp_path / "parts.txt"
    path.write_text("0\n1\n")
    data = toy.graph()
    partition = PartitionConfig(method=Split.FILE, file=str(path))
    with pytest.raises(UserError, match="2 part numbers for 42 vertices"):
        toy.build(GNNPipeConfig(stages=2, partition=partition), toy.plan(data), data)


@pytest.mark.parametrize(
    ("settings", "name", "layers", "said"),
    [
        (GNNPipeConfig(stages=2), "gcnii", 6, "fewer than 5 periods"),
        (GNNPipeConfig(stages=2), "gcn", 8, "known to collapse"),
        (GNNPipeConfig(stages=2, shuffle=False), "gcnii", 6, "without training.shuffle"),
    ],
)
def test_unwise_settings_are_said(toy, caplog, settings, name, layers, said):
    data = toy.graph()
    with caplog.at_level(logging.WARNING):
        toy.build(settings, toy.plan(data, name, layers=layers), data, epochs=50)
    assert said in caplog.text


def test_few_chunks_are_said_to_leave_stages_idle(caplog):
    with caplog.at_level(logging.WARNING):
        GNNPipeConfig(stages=4, chunks=4)
    assert "57 %" in caplog.text
