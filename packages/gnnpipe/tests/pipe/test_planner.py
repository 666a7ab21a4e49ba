"""The planner: its grids, its bytes against counters, its answers for extreme graphs, the task."""

import json
import sys

import pytest
import torch
from fivefold import UserError
from fivefold.testing import compose
from fivefold_gnnpipe.config import DataConfig, ModelConfig, TrainOptions
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.engine.training import Session
from fivefold_gnnpipe.engine.transport.launching import finish_ranks, start_ranks
from fivefold_gnnpipe.pipe.config import GNNPipeConfig
from fivefold_gnnpipe.pipe.plan_task import run as plan_task
from fivefold_gnnpipe.pipe.planner import grids, prospect


def ways_of(source, layers=16, devices=4, mbit=1.0, measures=True, name="resgcn", **more):
    data = load_graph(DataConfig(source=source, **more))
    config = ModelConfig(name=name, layers=layers, hidden=8)
    plan = make_plan(config, data.num_features, data.num_classes)
    session = Session(TrainOptions())
    settings = GNNPipeConfig(stages=devices)
    return prospect(plan, data, session, settings, devices, mbit, measures=measures)


def test_grids_are_every_product_with_two_stages_or_more():
    assert list(grids(8, 32)) == [(8, 1), (4, 2), (2, 4)]
    assert list(grids(6, 3)) == [(3, 2), (2, 3)]
    assert list(grids(7, 32)) == [(7, 1)]


def test_planned_bytes_are_those_that_are_sent():
    arguments = {"nodes": 300, "degree": 6.0, "features": 8}
    planned = ways_of("preferential", measures=False, **arguments)
    sent = ways_of("preferential", measures=True, **arguments)
    for before, after in zip(planned.ways, sent.ways, strict=True):
        assert before.bytes == after.bytes
        assert (before.stages, before.ways) == (after.stages, after.ways)


@pytest.mark.parametrize("name", ["gcn", "sage", "gcnii", "resgcn"])
def test_memory_by_the_formula_is_near_what_is_counted(name):
    """The counter sees every storage that the operations of an epoch make."""
    arguments = {"nodes": 1500, "degree": 10.0, "features": 16, "name": name, "layers": 8}
    planned = ways_of("blocks", devices=2, measures=False, **arguments)
    counted = ways_of("blocks", devices=2, measures=True, **arguments)
    for formula, found in zip(planned.ways, counted.ways, strict=True):
        assert formula.memory_bytes == pytest.approx(found.memory_bytes, rel=0.3), found
        assert formula.memory_bytes != found.memory_bytes


@pytest.mark.parametrize("source", ["preferential", "grid"])
def test_volume_alone_recommends_a_pipeline_unless_the_graph_is_easy_to_cut(source):
    found = ways_of(source, measures=False, nodes=900, degree=20.0, features=8)
    assert (found.best().name == "pipeline") is (source == "preferential")
    assert (found.crossover > 16) is (source == "grid")


def test_slow_link_makes_one_device_the_answer_for_a_small_graph():
    assert ways_of("karate", layers=4, devices=2, mbit=0.01).best().name == "one device"


@pytest.mark.slow
def test_simulated_seconds_follow_the_link():
    # so slow that what this machine does beside it does not matter; nobody waits in earnest
    slow = ways_of("preferential", mbit=0.01, nodes=300, degree=10.0, features=8)
    fast = ways_of("preferential", mbit=1000.0, nodes=300, degree=10.0, features=8)
    for one, other in zip(slow.ways[1:], fast.ways[1:], strict=True):
        assert one.seconds > other.seconds
    graph, pipe = slow.ways[1], slow.ways[2]
    assert graph.seconds > 0.8 * graph.bytes / 4 * 8 / 1e4  # its rows cannot pass any faster
    assert pipe.seconds < graph.seconds


def test_task_prints_the_table_and_records_it(tmp_path, capsys):
    torch.manual_seed(0)
    words = ["data=karate", "model.layers=4", "model.hidden=8", "training.stages=2", "link_mbit=10"]
    run = compose("graph plan", words, folder=tmp_path)
    assert plan_task(run.config, run) == 0
    said = capsys.readouterr().out
    assert "recommended:" in said
    assert [row["way"] for row in run.result.rows] == ["one device", "graph parallel", "pipeline"]
    assert run.result.figures["link_mbit"] == 10
    assert all(row["seconds"] > 0 for row in run.result.rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.cuts=[9]"], r"the last stage has no layer.*training.cuts=\[9\]"),
        (["training.mode=sweep", "training.sweep.seeds=[0,1]"], "training.mode=sweep"),
        (["devices=50"], r"50 parts of a graph of 34 vertices \(devices=50\)"),
        (["model=gat"], "set training.cross_gradient=1"),
        (["devices=4", "training.cuts=[2]"], r"2 x 1 devices, and 4.*training\.cuts=\[2\]"),
        (["devices=4", "training.chunks=8"], r"training\.chunks=8\).*training\.stages=4"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(tmp_path, words, said):
    base = ["data=karate", "model.layers=4", "model.hidden=8", "measure=false"]
    run = compose("graph plan", [*base, *words], folder=tmp_path)
    with pytest.raises(UserError, match=said):
        plan_task(run.config, run)


def test_ways_of_graph_parallelism_are_the_devices_that_are_planned_for(tmp_path):
    words = ["data=karate", "model.layers=4", "model.hidden=8", "measure=false"]
    words += ["training=graph_parallel", "training.ways=4"]
    run = compose("graph plan", words, folder=tmp_path)
    assert plan_task(run.config, run) == 0
    grids_of = [(row["stages"], row["ways"]) for row in run.result.rows]
    assert grids_of == [(1, 1), (1, 4), (4, 1), (2, 2)]


@pytest.mark.slow
def test_planner_under_torchrun_measures_the_link_and_only_the_first_rank_reports(tmp_path):
    words = ["data=karate", "model.layers=4", "model.hidden=8", "training.stages=2"]
    words += [f"hydra.run.dir={tmp_path}/run"]
    command = [sys.executable, "-m", "fivefold", "graph", "plan", *words]
    first, second = finish_ranks(start_ranks(command, 2), 120.0)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "(measured)" in first[2]
    assert "recommended:" in first[1]
    assert second[1] == ""
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["rows"]
    assert all(row["seconds"] > 0 for row in rows)
