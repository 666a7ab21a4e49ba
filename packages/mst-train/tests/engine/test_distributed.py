"""Two processes over gloo train what one process trains on both their rows."""

import json
import os
import subprocess
import sys
import weakref

import pytest
import torch.distributed as dist
from fivefold_mst_train.engine.ranks import Ranks
from torch import nn

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(start, folder, *words):
    """Run two processes; return the status and what they said."""
    given = (*words, f"hydra.run.dir={folder / 'run'}")
    process = start(*given, launcher=TORCHRUN, env=ENVIRONMENT)
    try:
        _, said = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        _, said = process.communicate(timeout=60)
        pytest.fail(f"torchrun did not end:\n{said}")
    return process.returncode, said


def lines(folder, kind="train"):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def words(folder, *more):
    return (
        "steps=4",
        "optimizer.lr=1e-2",
        "eval_blocks=3",
        "save_every=2",
        f"output={folder}",
        *more,
    )


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = train(*words(folder), "batch_size=2", "accumulate=2", f"hydra.run.dir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(folder, alone):
    for kind, names in (("train", ("loss", "grad_norm")), ("eval", ("eval_loss", "perplexity"))):
        for own, other in zip(lines(folder, kind), lines(alone, kind), strict=True):
            for name in names:
                assert own[name] == pytest.approx(other[name], rel=1e-4), (kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "mst"])
def test_two_processes_train_as_one(start, alone, tmp_path, method):
    given = [*words(tmp_path), "accumulate=2", f"training={method}"]
    status, said = torchrun(start, tmp_path, *given)
    assert status == 0, said
    assert_same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "mst"])
def test_two_processes_with_shards_train_as_one_and_resume(start, alone, tmp_path, method):
    given = [*words(tmp_path), "accumulate=2", "parallel=fsdp2", f"training={method}"]
    status, said = torchrun(start, tmp_path, *given)
    assert status == 0, said
    assert_same(tmp_path, alone)
    first = [line["loss"] for line in lines(tmp_path)]
    half = f"resume={tmp_path}/checkpoints/step-00000002"
    status, said = torchrun(start, tmp_path, *given, half)
    assert status == 0, said
    assert [line["loss"] for line in lines(tmp_path)] == first


def test_nothing_but_python_holds_the_group_when_processes_part(tmp_path):
    """DDP's reducer would join gloo's threads under Python's lock, which one of them waits for."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    ranks = Ranks(size=2)
    module = ranks.average(nn.Linear(2, 2))
    reducer = weakref.ref(module.reducer)
    ranks.part()
    assert reducer() is None
    assert not dist.is_initialized()


def pair(start, tmp_path, *words):
    """Start two processes without torchrun, each in a folder of its own with words of its own."""
    port = 29500 + os.getpid() % 500
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank, given in enumerate(words):
        folder = tmp_path / str(rank)
        folder.mkdir(exist_ok=True)
        env = {**ENVIRONMENT, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(start(*given, f"hydra.run.dir={folder / 'run'}", env=env, cwd=folder))
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert [status for _, status in ended] == [2, 2], ended
    return [said.splitlines()[-1] for said, _ in ended]


def test_processes_with_different_settings_are_refused_in_one_line(start, tmp_path):
    """The second process is told another length, as when its machine has another script."""
    for last in pair(start, tmp_path, ["seq_len=32"], ["seq_len=64"]):
        assert last.startswith("fivefold: process 0 and process 1 have different settings")
        assert "seq_len is 32 and 64" in last


@pytest.mark.slow
def test_a_process_that_cannot_read_its_data_ends_the_other(start, tmp_path):
    """Both are told the same relative path, which one of them has."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "here.txt").write_text("abc" * 1000)
    first, second = pair(start, tmp_path, ["data=here.txt"], ["data=here.txt"])
    assert first.startswith("fivefold: process 1 cannot go on: there is no such file or folder")
    assert second.startswith("fivefold: there is no such file or folder (data.name=here.txt)")


@pytest.mark.slow
def test_a_length_that_does_not_fit_ends_every_process(start, tmp_path):
    status, said = torchrun(start, tmp_path, "seq_len=100000")
    assert status != 0
    assert "fivefold: the model has 256 positions (seq_len=100000)" in said
