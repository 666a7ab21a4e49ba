"""`fivefold graph training=gnnpipe` as a user runs it, in one process."""

import pytest
from fivefold import UserError
from fivefold.testing import compose
from fivefold_gnnpipe.engine.task import run as graph_task

WORDS = (
    "data=karate",
    "model=resgcn",
    "model.layers=4",
    "model.hidden=8",
    "training=gnnpipe",
    "training.chunks=8",
    "epochs=4",
    "eval_every=2",
)


def ran(folder, *words):
    folder.mkdir(exist_ok=True)
    run = compose("graph", [*WORDS, *words], folder=folder)
    graph_task(run.config, run)
    return run


def test_run_leaves_table_pictures_and_checkpoint(tmp_path, capsys):
    run = ran(tmp_path / "one", "training.cuts=[2]")
    said = capsys.readouterr().out
    for line in ("bytes an epoch, by the formula", "peak memory", "utilisation measured"):
        assert line in said
    assert f"{run.result.figures['peak_memory_bytes_rank_1'] / 1e3:,.1f} kB" in said
    figures = run.result.figures
    assert figures["bytes_per_epoch"] == figures["bytes_formula"] == 2 * 34 * 8 * 4
    for name in ("timeline.png", "curve.png", "checkpoint/best.safetensors"):
        assert (run.folder / name).is_file()
    stale = [row["staleness"] for row in run.result.rows]
    assert [len(layers) for layers in stale] == [0, 4, 0, 4]  # at evaluated epochs


def test_checkpoint_of_another_cut_is_refused_by_name(tmp_path):
    ran(tmp_path / "one", "training.cuts=[2]")
    with pytest.raises(UserError, match=r"training\.cuts=\[2\]"):
        ran(tmp_path / "two", "training.cuts=[1]", f"resume={tmp_path}/one/checkpoint")


@pytest.mark.parametrize(
    "change",
    [
        "training.history.refresh=3",
        "training.history.dtype=bfloat16",
        "training.cross_gradient=1",
        "training.first_layer=stale",
        "training.shuffle=false",
    ],
)
def test_checkpoint_of_other_numbers_is_refused_by_name(tmp_path, change):
    ran(tmp_path / "one", "training.cuts=[2]")
    more = ("training.cuts=[2]", "epochs=6", change, f"resume={tmp_path}/one/checkpoint")
    with pytest.raises(UserError, match=rf"the checkpoint has .*{change.partition('=')[0]}="):
        ran(tmp_path / "two", *more)


def test_sweep_of_other_seeds_is_not_gone_on_from(tmp_path):
    sweep = ("training.chunks=0", "training.cuts=[2]", "training.mode=sweep")
    ran(tmp_path / "one", *sweep, "training.sweep.seeds=[0,1]")
    more = ("training.sweep.seeds=[0,2]", "epochs=6", f"resume={tmp_path}/one/checkpoint")
    with pytest.raises(UserError, match=r"training.sweep.seeds=\[0, 1\]"):
        ran(tmp_path / "two", *sweep, *more)


def test_run_that_goes_on_ends_with_the_numbers_of_a_whole_one(tmp_path):
    whole = ran(tmp_path / "whole", "training.cuts=[2]", "epochs=6")
    ran(tmp_path / "part", "training.cuts=[2]")
    more = ("training.cuts=[2]", "epochs=6", f"resume={tmp_path}/part/checkpoint")
    resumed = ran(tmp_path / "rest", *more)
    assert resumed.result.figures["final_loss"] == whole.result.figures["final_loss"]
