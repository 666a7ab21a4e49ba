"""A run that is killed goes on as if it had not been."""

import json
import signal
import subprocess
import time

import pytest

STEPS = 14


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """Every line of a run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(*words(folder))
    assert done.returncode == 0, done.stderr
    return lines(folder)


def words(folder):
    return (
        f"steps={STEPS}",
        "save_every=3",
        "eval_every=5",
        "accumulate=2",
        "optimizer.lr=1e-2",
        f"output={folder}",
        f"hydra.run.dir={folder / 'run'}",
    )


def lines(folder):
    """What the run wrote of every step, without what depends on the clock."""
    clock = ("seconds", "tokens_per_second", "peak_bytes", "predicted_peak_bytes")
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in found]


def kill(start, folder, ready):
    """Start the run and kill it, without warning, as soon as it is as far as that."""
    process = start(*words(folder), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not ready(folder):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def wrote(count):
    def ready(folder):
        file = folder / "metrics.jsonl"
        return file.exists() and len(file.read_bytes().splitlines()) >= count

    return ready


def is_saving(folder):
    """A second checkpoint is being written, and is not whole."""
    saved = folder / "checkpoints"
    return saved.is_dir() and any(saved.glob(".step-00000006.tmp"))


@pytest.mark.parametrize(
    "ready",
    [
        pytest.param(wrote(5), id="in_a_step"),
        pytest.param(is_saving, id="while_saving", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_with_the_same_batches_and_losses(
    whole, train, start, tmp_path, ready
):
    kill(start, tmp_path, ready)
    before = lines(tmp_path)
    assert before == whole[: len(before)]
    assert len(before) < len(whole), "it was not killed in time"
    done = train(*words(tmp_path), f"resume={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path) == whole


def test_a_resumed_run_with_other_data_is_refused(train, tmp_path):
    done = train(*words(tmp_path))
    assert done.returncode == 0, done.stderr
    more = [word for word in words(tmp_path) if not word.startswith("steps")]
    refused = train(*more, "steps=99", "seed=5", f"resume={tmp_path}")
    assert refused.returncode == 2
    assert "was made with seed=0, and this run has 5" in refused.stderr.splitlines()[-1]
    finished = train(*more, f"steps={STEPS}", f"resume={tmp_path}")
    assert finished.returncode == 2
    assert f"has taken all {STEPS} steps" in finished.stderr.splitlines()[-1]
