"""The peak that is printed is near the one that is predicted, or none is predicted."""

import json


def figures(train, folder, *words):
    done = train(*words, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())["figures"]


def test_steps_in_backward_are_measured_without_the_optimizers_state(train, tmp_path):
    words = ["training=mst", "training.optimizer_in_backward=true", "optimizer.clip=0", "steps=3"]
    found = figures(train, tmp_path, *words)
    assert 0.9 < found["peak_bytes"] / found["predicted_peak_bytes"] < 1.1


def test_no_peak_is_predicted_where_documents_are_kept_apart(train, tmp_path):
    found = figures(train, tmp_path, "data.mask_documents=true", "steps=1")
    assert found["peak_bytes"] > 0
    assert found["predicted_peak_bytes"] is None


def test_a_step_beyond_the_memory_is_told_before_it_runs(train, tmp_path, monkeypatch):
    monkeypatch.setattr("fivefold_mst_train.engine.opening.free_bytes", lambda device: 100)
    done = train("steps=1", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0
    assert "100B are free: lower batch_size or seq_len" in done.stderr


def test_nothing_is_told_where_a_step_fits(train, tmp_path):
    assert "are free" not in train("steps=1", f"hydra.run.dir={tmp_path}").stderr
