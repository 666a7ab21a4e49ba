"""A checkpoint is whole or not there, and says what is wrong with it."""

import json

import pytest
import torch
from fivefold import UserError
from fivefold_mst_train.engine.checkpoints import (
    RECORD,
    STATE,
    Checkpoint,
    Checkpoints,
    read_checkpoint,
)
from fivefold_mst_train.engine.loop import Progress
from fivefold_mst_train.engine.ranks import Ranks
from transformers import AutoModelForCausalLM

SETTINGS = {"seq_len": 32, "seed": 0}


@pytest.fixture
def save(tmp_path):
    """Save a checkpoint of some step, with a model that is one small file."""

    def saved(step, model=lambda folder: (folder / "model.safetensors").write_bytes(b"weights")):
        checkpoints = Checkpoints(tmp_path / "out", 2, Ranks())
        states = {"w/exp_avg": torch.arange(3.0)}
        return checkpoints.save(Progress(step, 10 * step, 1.5), SETTINGS, states, model)

    return saved


def test_what_was_saved_is_read(save):
    found = read_checkpoint(str(save(7)))
    assert found.progress == Progress(7, 70, 1.5)
    assert torch.equal(found.states()["w/exp_avg"], torch.arange(3.0))
    found.require(SETTINGS)


def test_the_newest_is_taken_of_a_folder_and_the_oldest_is_dropped(save):
    for step in (9, 10, 11):
        folder = save(step)
    assert [path.name for path in sorted(folder.parent.iterdir())] == [
        "step-00000010",
        "step-00000011",
    ]
    assert read_checkpoint(str(folder.parent)).progress.step == 11
    assert read_checkpoint(str(folder)).progress.step == 11


def test_a_checkpoint_that_was_cut_short_is_not_there(save):
    folder = save(5).parent

    def broken(draft):
        (draft / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(6, broken)
    assert read_checkpoint(str(folder)).progress.step == 5
    save(7)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_full_disk_is_one_line_and_leaves_the_one_before(save):
    folder = save(5).parent

    def full(draft):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        save(6, full)
    assert [path.name for path in folder.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("name", ["model.safetensors", STATE])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_file_is_named(save, name, harm):
    folder = save(3)
    data = bytearray((folder / name).read_bytes())
    if harm == "gone":
        (folder / name).unlink()
    else:
        data[-1] ^= 1
        (folder / name).write_bytes(data[:-2] if harm == "cut" else data)
    with pytest.raises(UserError, match=f"the checkpoint is damaged: {name}"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"kind": "other", "schema": 1}', "of another program or version"),
        ('{"kind": "fivefold-train", "schema": 99}', "of another program or version"),
        ('{"kind": "fivefold-train", "schema": 1}', "damaged"),
        (
            '{"kind": "fivefold-train", "schema": 1, "settings": {}, "files": {}, '
            '"progress": {"step": -5, "tokens": 0, "seconds": 0}}',
            "damaged",
        ),
    ],
)
def test_a_record_of_another_kind_is_refused(save, text, reason):
    folder = save(3)
    (folder / RECORD).write_text(text)
    with pytest.raises(UserError, match=reason):
        read_checkpoint(str(folder))


def test_a_model_that_is_no_checkpoint_is_told_how_to_train_on(folder):
    with pytest.raises(UserError, match=r"holds a model and no state.*without resume"):
        read_checkpoint(str(folder))


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint in this folder"):
        read_checkpoint(str(tmp_path))


def test_other_settings_are_named_with_both_values(save):
    found = read_checkpoint(str(save(3)))
    with pytest.raises(UserError, match="was made with seq_len=32, and this run has 64"):
        found.require({**SETTINGS, "seq_len": 64})


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("global_batch", r"batch_size \* accumulate \* processes=1, and this run has 2"),
        ("held_out", r"data\.eval_share"),
        ("data", r"made with other data or packing \(data\.\*\)"),
    ],
)
def test_what_differs_is_called_as_a_user_sets_it(tmp_path, key, line):
    saved = Checkpoint(tmp_path, Progress(3), {key: 1})
    with pytest.raises(UserError, match=line) as met:
        saved.require({key: 2})
    assert "global_batch" not in str(met.value)


def test_nothing_in_a_checkpoint_is_a_pickle(train, tmp_path):
    done = train("steps=2", f"output={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    record = json.loads((folder / RECORD).read_text())
    assert record["progress"]["step"] == 2
    auto = AutoModelForCausalLM.from_pretrained(folder)
    assert auto.config.vocab_size == 128
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["figures"]
    assert figures["steps"] == 2
    assert figures["predicted_peak_bytes"] == pytest.approx(figures["peak_bytes"], rel=0.1)
