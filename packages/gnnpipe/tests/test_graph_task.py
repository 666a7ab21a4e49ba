"""`fivefold graph` and `fivefold graph predict`, run as the command line runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fivefold import Run, UserError
from fivefold.description import load
from fivefold.testing import compose
from fivefold_gnnpipe.engine import task as task_module
from fivefold_gnnpipe.engine.checkpoint import CheckpointFolder
from fivefold_gnnpipe.engine.transport.launching import finish_ranks, start_ranks
from safetensors.torch import load_file

QUICK = ["data=karate", "model=gcnii", "model.layers=3", "model.hidden=8", "eval_every=3"]


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Run]:
    """Run the task in process, in a folder of its own."""

    def start(name: str, *overrides: str) -> Run:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        run = compose("graph", [*QUICK, *overrides], folder=folder)
        load(run.task.check)(run.config, run)
        assert load(run.task.run)(run.config, run) == 0
        return run

    return start


_WIDE = ["model=sage", "model.layers=1", "model.hidden=32", "model.dropout=0", "lr=0.03"]


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.result.rows]


def test_a_run_leaves_table_curve_and_checkpoint(graph, tmp_path, capsys):
    run = graph("first", "epochs=6")
    table = capsys.readouterr().out
    for line in ("best validation epoch", "seconds an epoch", "by the formula", "peak memory"):
        assert line in table
    figures = run.result.figures
    assert figures["bytes_per_epoch"] == figures["bytes_formula"] == 0
    assert 0 <= figures["best_accuracy_val"] <= 1
    assert [row["epoch"] for row in run.result.rows] == [1, 2, 3, 4, 5, 6]
    assert [row["val"] is not None for row in run.result.rows] == [False, False, True] * 2
    assert (tmp_path / "first" / "curve.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in (tmp_path / "first" / "checkpoint").iterdir()}
    assert names == {"plan.json", "best.safetensors", "latest", "epoch-000006"}


@pytest.mark.parametrize(
    "training", [["training=plain"], ["training=graph_parallel", "training.ways=3"]]
)
def test_resumed_run_equals_an_uninterrupted_one(graph, tmp_path, training):
    whole = graph("whole", "epochs=8", *training)
    graph("half", "epochs=5", *training)
    half = tmp_path / "half" / "checkpoint"
    rest = graph("rest", "epochs=8", f"resume={half}", *training)
    assert losses(rest) == losses(whole)[5:]
    for name in ("best.safetensors", "epoch-000008/last.safetensors"):
        first = load_file(tmp_path / "whole" / "checkpoint" / name)
        second = load_file(tmp_path / "rest" / "checkpoint" / name)
        assert all(torch.equal(first[key], second[key]) for key in first)
    for key in ("best_epoch", "best_accuracy_val", "best_accuracy_test", "final_loss"):
        assert rest.result.figures[key] == whole.result.figures[key]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data=lesmis"], "graph=karate, and this run graph=lesmis"),
        (["model.layers=4"], "model.layers=3, and this run model.layers=4"),
        (["training=graph_parallel"], "training=plain, and this run training=graph_parallel"),
        (["model.hidden=16"], "model.hidden=8"),
        (["seed=3"], "seed=0, and this run seed=3"),
        (["optimizer=sgd"], "optimizer=adam, and this run optimizer=sgd"),
        (["runtime.dtype=float64"], "runtime.dtype=float32, and this run runtime.dtype=float64"),
    ],
)
def test_checkpoint_of_another_run_is_refused(graph, tmp_path, changes, said):
    graph("first", "epochs=3")
    with pytest.raises(UserError, match=rf"the checkpoint has .*{said}.*resume"):
        graph("second", "epochs=6", f"resume={tmp_path}/first/checkpoint", *changes)


def test_damaged_and_absent_checkpoints_are_refused(graph, tmp_path):
    with pytest.raises(UserError, match=r"no such file.*resume"):
        graph("second", "epochs=6", f"resume={tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no checkpoint.*resume"):
        graph("second", "epochs=6", f"resume={tmp_path}/empty")
    graph("first", "epochs=3")
    folder = tmp_path / "first" / "checkpoint"
    (folder / "epoch-000003" / "state-0.safetensors").write_bytes(b"damage")
    with pytest.raises(UserError, match=r"state-0.safetensors cannot be read"):
        graph("second", "epochs=6", f"resume={folder}")


@pytest.mark.parametrize("epochs", [2, 3])
def test_checkpoint_that_has_all_epochs_is_not_trained_again(graph, tmp_path, epochs):
    graph("first", "epochs=3")
    with pytest.raises(UserError, match=rf"has 3 epochs already.*epochs={epochs}.*more than 3"):
        graph("second", f"epochs={epochs}", f"resume={tmp_path}/first/checkpoint")


def test_run_begun_anew_in_a_folder_forgets_the_states_of_the_one_before(graph, tmp_path):
    """Else a run that is killed before its first state would go on from another's."""
    place = tmp_path / "kept"
    graph("first", "epochs=4", f"checkpoint={place}")
    assert CheckpointFolder(place).read_state("resume").epoch == 4
    graph("more", "epochs=5", f"checkpoint={place}", f"resume={place}")  # goes on in its own folder
    assert CheckpointFolder(place).read_state("resume").epoch == 5
    CheckpointFolder(place).describe({"seed": 9}, anew=True)
    with pytest.raises(UserError, match="no state was finished there"):
        CheckpointFolder(place).read_state("resume")
    assert {path.name for path in place.iterdir()} == {"plan.json"}


def test_loss_that_is_no_number_before_a_step_is_not_blamed_on_the_learning_rate(graph, tmp_path):
    rng = np.random.default_rng(0)
    x = np.full((60, 5), 3e38, dtype=np.float32)
    ends, y = rng.integers(60, size=(2, 200)), rng.integers(2, size=60)
    np.savez(tmp_path / "g.npz", x=x, y=y, edge_index=ends)
    with pytest.raises(UserError, match=r"before the first step.*scale features") as refused:
        graph("first", f"data={tmp_path}/g.npz", "epochs=3")
    assert refused.value.setting != "lr"


def test_states_are_kept_while_training_and_only_the_newest(tmp_path):
    """A run that is killed between epochs resumes from the last whole state."""
    program = (
        "from fivefold_gnnpipe.engine import loop\n"
        "import os\n"
        "kept = loop._keep\n"
        "def killed(method, keeper, epoch, *rest):\n"
        "    if epoch == 9: os._exit(9)\n"
        "    kept(method, keeper, epoch, *rest)\n"
        "loop._keep = killed\n"
        "from fivefold.cli import main\n"
        f"main(['graph', *{QUICK!r}, 'epochs=12', 'checkpoint_every=3', 'plots=false',\n"
        f"      'hydra.run.dir={tmp_path}/run'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    folder = tmp_path / "run" / "checkpoint"
    assert (folder / "latest").read_text() == "epoch-000006\n"
    assert CheckpointFolder(folder).read_state("resume").epoch == 6
    assert not (folder / "epoch-000003").exists()


def test_predictions_are_those_of_the_best_weights(graph, tmp_path):
    run = graph("first", "epochs=9")
    words = ["data=karate", f"checkpoint={tmp_path}/first/checkpoint", f"output={tmp_path}/p.npz"]
    predicted = compose("graph predict", words, folder=tmp_path)
    load(predicted.task.run)(predicted.config, predicted)
    assert predicted.result.figures["score_test"] == run.result.figures["best_accuracy_test"]
    assert predicted.result.figures["score_val"] == run.result.figures["best_accuracy_val"]
    with np.load(tmp_path / "p.npz", allow_pickle=False) as held:
        assert held["prediction"].shape == (34,)
        assert np.allclose(held["probability"].sum(1), 1, atol=1e-5)
        assert (held["probability"].argmax(1) == held["prediction"]).all()


def test_last_weights_can_be_predicted_with(graph, tmp_path):
    run = graph("first", "epochs=4")
    words = ["data=karate", f"checkpoint={tmp_path}/first/checkpoint", "weights=last"]
    predicted = compose("graph predict", words, folder=tmp_path)
    load(predicted.task.run)(predicted.config, predicted)
    assert predicted.result.figures["score_test"] == run.result.figures["last_accuracy_test"]
    assert (tmp_path / "predictions.npz").is_file()


def test_predicting_another_graph_needs_the_same_columns(graph, tmp_path):
    graph("first", "epochs=3")
    words = ["data=lesmis", f"checkpoint={tmp_path}/first/checkpoint"]
    predicted = compose("graph predict", words, folder=tmp_path)
    with pytest.raises(
        UserError, match=r"num_features=34, and this run num_features=77.*trained on \(karate\)"
    ):
        load(predicted.task.run)(predicted.config, predicted)


def test_several_labels_train_and_predict_from_the_command_line(graph, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    y = (x[:, :3] > 0).astype(np.int64)
    np.savez(tmp_path / "g.npz", x=x, y=y, edge_index=rng.integers(60, size=(2, 200)))
    run = graph("first", f"data={tmp_path}/g.npz", "epochs=60", *_WIDE)
    assert run.result.figures["best_micro_f1_train"] > 0.8
    words = [f"data={tmp_path}/g.npz", f"checkpoint={tmp_path}/first/checkpoint"]
    predicted = compose("graph predict", words, folder=tmp_path)
    load(predicted.task.run)(predicted.config, predicted)
    with np.load(tmp_path / "predictions.npz") as held:
        assert held["prediction"].shape == (60, 3)
        assert set(np.unique(held["prediction"])) <= {0, 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=gpt"], r"unknown model \(model.name=gpt\)"),
        (["model.dropout=1"], "model.dropout=1"),
        (["model=gat", "model.hidden=10"], "heads do not divide"),
        (["epochs=0"], "nothing to train"),
        (["lr=-1"], "lr=-1"),
        (["data=pyg"], "no data set is named"),
        (["data.source=auto"], "no graph is named"),
        (["training=graph_parallel", "training.ways=-1"], "training.ways=-1"),
        (["training=graph_parallel", "training.transport.emulate_mbit=0"], "a link without a rate"),
        (["training=graph_parallel", "training.partition.method=file"], "no partition file"),
        (["runtime.device=tpu"], "unknown device"),
        (["optimizer=adan"], "did you mean adam"),
        (["data=nowhere.npz"], "no such file"),
        (["data=karate", "data.path=graph.npz"], "data=karate reads no file"),
        (["runtime.threads=100000"], "runtime.threads=100000"),
    ],
)
def test_senseless_settings_are_refused_before_torch(words, said):
    def begin() -> None:
        run = compose("graph", words)
        load(run.task.check)(run.config, run)
        load(run.task.run)(run.config, run)

    with pytest.raises(UserError, match=said):
        begin()


def test_more_ways_than_vertices_are_refused(graph):
    with pytest.raises(UserError, match=r"40 parts of a graph of 34 vertices \(training.ways=40"):
        graph("first", "training=graph_parallel", "training.ways=40")


def test_bar_says_loss_score_bytes_and_staleness():
    point = task_module.Point(3, 1.25, 0.1, 0.0, 0.1, 2_500_000, staleness=[0.1, 0.25])
    line = task_module._line(point, 0.5)
    assert line == "loss 1.250, val 0.500, 2.5 MB/epoch, stale 0.10 0.25"


# ------------------------------------------------------------------------------- real processes


def launched(folder: Path, size: int, *words: str) -> list[tuple[int, str, str]]:
    """Run the command line on several ranks, as torchrun starts them."""
    common = [*QUICK, "plots=false", "training=graph_parallel", *words]
    command = [sys.executable, "-m", "fivefold", "graph", *common, f"hydra.run.dir={folder}"]
    return finish_ranks(start_ranks(command, size), timeout=120.0)


@pytest.mark.slow
def test_processes_under_torchrun_train_as_one_process_does(graph, tmp_path):
    ends = launched(tmp_path / "two", 2, "epochs=4")
    assert [status for status, _, _ in ends] == [0, 0], ends
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    alone = graph("alone", "epochs=4", "training=graph_parallel", "training.ways=2")
    assert [row["loss"] for row in result["rows"]] == losses(alone)
    assert result["figures"]["bytes_per_epoch"] == alone.result.figures["bytes_formula"]
    assert "best validation epoch" in ends[0][1]
    assert ends[1][1] == ""  # only rank 0 reports


@pytest.mark.slow
def test_killed_rank_ends_all_with_its_name_and_the_run_resumes(tmp_path):
    """The last whole state brings the run to the numbers of an uninterrupted one."""
    whole = launched(tmp_path / "whole", 2, "epochs=6", "checkpoint_every=2")
    assert [status for status, _, _ in whole] == [0, 0], whole
    program = (
        "import os, sys\n"
        "from fivefold_gnnpipe.engine import graph_rank\n"
        "epoch = graph_rank.GraphRank.epoch\n"
        "def killed(self, index):\n"
        "    if index == 3 and os.environ['RANK'] == '1': os._exit(7)\n"
        "    return epoch(self, index)\n"
        "graph_rank.GraphRank.epoch = killed\n"
        "from fivefold.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [*QUICK, "plots=false", "training=graph_parallel", "epochs=6", "checkpoint_every=2"]
    words += ["training.transport.timeout=20", f"hydra.run.dir={tmp_path / 'cut'}"]
    ends = finish_ranks(start_ranks([sys.executable, "-c", program, "graph", *words], 2), 120.0)
    assert ends[1][0] == 7
    assert ends[0][0] == 2, ends[0]
    assert "rank 1" in ends[0][2]
    folder = tmp_path / "cut" / "checkpoint"
    rest = launched(tmp_path / "rest", 2, "epochs=6", "checkpoint_every=2", f"resume={folder}")
    assert [status for status, _, _ in rest] == [0, 0], rest
    rows = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "rest")]
    first, second = ([row["loss"] for row in each["rows"]] for each in rows)
    assert second == first[2:]
    assert rows[0]["figures"]["best_accuracy_val"] == rows[1]["figures"]["best_accuracy_val"]


@pytest.mark.slow
def test_ranks_with_other_settings_are_told_apart(tmp_path):
    words = [*QUICK, "plots=false", "training=graph_parallel", f"hydra.run.dir={tmp_path}/r"]
    program = (
        "import os, sys\nfrom fivefold.cli import main\n"
        "sys.exit(main([*sys.argv[1:], f'lr=0.0{1 + int(os.environ[\"RANK\"])}']))\n"
    )
    ends = finish_ranks(start_ranks([sys.executable, "-c", program, "graph", *words], 2), 120.0)
    assert [status for status, _, _ in ends] == [2, 2]
    assert all("rank 1 has 0.02 and rank 0 has 0.01 (lr=" in err for _, _, err in ends), ends


def test_wrong_number_of_processes_is_refused(monkeypatch, graph):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    monkeypatch.setitem(os.environ, "RANK", "0")
    with pytest.raises(UserError, match=r"3 ranks, and torchrun started 2.*training.ways"):
        graph("first", "training=graph_parallel", "training.ways=3")
