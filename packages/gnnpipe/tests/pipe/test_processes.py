"""Two and four gloo processes: the bits of one process, a killed rank, a run that goes on."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from fivefold_gnnpipe.engine.transport.launching import finish_ranks, start_ranks

RANK = str(Path(__file__).with_name("pipe_rank.py"))
STALE = {"stages": 2, "chunks": 8, "cuts": [3], "history": {"refresh": 3}}


def launch(size, **case):
    case = {"epochs": 7, "settings": STALE, **case}
    return finish_ranks(start_ranks([sys.executable, RANK, json.dumps(case)], size), 240.0)


@pytest.fixture
def one_process(capsys):
    """Run a case on virtual ranks, here."""

    def run(**case):
        runpy.run_path(RANK)["main"]({"epochs": 7, "settings": STALE, **case})
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def result(ends):
    for status, _, err in ends:
        assert status == 0, err
    return json.loads(ends[0][1].splitlines()[-1])


@pytest.mark.parametrize(
    ("size", "settings", "model"),
    [
        (2, STALE, "gcnii"),
        pytest.param(2, {**STALE, "initial": "send"}, "gcnii", marks=pytest.mark.slow),
        pytest.param(4, {**STALE, "ways": 2, "chunks": 16}, "resgcn", marks=pytest.mark.slow),
        pytest.param(
            4, {"stages": 4, "chunks": 16, "cuts": [1, 3, 5]}, "gcnii", marks=pytest.mark.slow
        ),
    ],
)
def test_processes_have_the_bits_and_bytes_of_one_process(one_process, size, settings, model):
    one = one_process(settings=settings, model=model)
    several = result(launch(size, settings=settings, model=model))
    assert several == one
    assert set(several["bytes"]) == {several["formula"]}


def test_graph_parallel_processes_have_the_bits_and_bytes_of_one_process(one_process):
    one = one_process(settings={"ways": 2}, method="graph_parallel")
    two = result(launch(2, settings={"ways": 2}, method="graph_parallel"))
    assert two == one
    assert set(two["bytes"]) == {two["formula"]}


def test_run_that_was_killed_within_a_period_resumes_to_the_same_numbers(one_process, tmp_path):
    whole = one_process()
    ends = launch(2, folder=str(tmp_path), dies_after=5)
    assert ends[0][0] == 2
    assert "rank 1 has ended" in ends[0][2]
    said = [line for line in ends[0][2].splitlines() if line.startswith("fivefold: ")]
    assert len(said) == 1
    resumed = result(launch(2, folder=str(tmp_path), resumes=True))
    assert resumed["losses"] == whole["losses"]
    assert resumed["weights"] == whole["weights"]
    assert resumed["best"] == whole["best"]


def test_ranks_with_other_seeds_are_refused_on_every_rank():
    for status, _, err in launch(2, disagrees=True):
        assert status == 2
        assert "rank 1 has 1 and rank 0 has 0 (seed=" in err
