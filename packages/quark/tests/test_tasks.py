"""The tasks as a user meets them: what a run leaves, what is refused and how."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fivefold import UserError
from fivefold.cli import main
from fivefold.description import load
from fivefold.testing import compose

_QUICK = ["optimization.budget.shots=40", "hydra.run.dir=run"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(here, *words):
    """Run a command; returns its status and its record."""
    status = main([*words])
    return status, json.loads((here / "run" / "result.json").read_text("utf-8"))


def refusal(*words):
    """Return the line with which a command is refused, before or in its task."""
    run = None
    try:
        run = compose(words[0], words[1:])
        load(run.task.check)(run.config, run)
        load(run.task.run)(run.config, run)
    except UserError as error:
        located = error if run is None else run.composition.located(error)
        return str(located)
    raise AssertionError("it was not refused")


def test_a_run_leaves_table_picture_trace_and_record(here, capsys):
    status, record = ran(here, "quantum", "problem=edge3", *_QUICK)
    assert status == 0
    assert record["status"] == "ok"
    assert record["figures"]["train_accuracy"] == 1.0
    methods = [row["method"] for row in record["rows"]]
    assert methods == [
        "quark",
        "random",
        "random_racing",
        "exhaustive",
        "parameter_shift",
        "logistic_regression",
    ]
    shown = capsys.readouterr().out
    assert all(method in shown for method in methods)
    assert (here / "run" / "quantum.png").read_bytes().startswith(b"\x89PNG")
    trace = json.loads((here / "run" / "trace.json").read_text("utf-8"))
    assert len(trace["shots"]) == record["figures"]["shots_weight"]


@pytest.mark.parametrize("method", ["random", "exhaustive", "parameter_shift"])
def test_the_same_task_runs_with_any_method(here, method):
    status, record = ran(here, "quantum", f"optimization={method}", "hydra.run.dir=run")
    assert status == 0
    assert record["rows"][0]["method"] == method
    assert len(record["rows"]) == 1


def test_a_budget_that_ends_leaves_the_best_and_a_valid_record(here):
    words = ["quantum", "problem=tiny_mnist", "baselines=[]", "optimization.budget.shots=9"]
    status, record = ran(here, *words, "hydra.run.dir=run")
    assert status == 0
    assert record["rows"][0]["stopped"] == "budget"
    assert record["rows"][0]["measurements"] == 9


def test_ctrl_c_keeps_the_best_weights_and_a_valid_record(here, monkeypatch):
    from fivefold_quark.amplify.search import Search

    shot = Search._shot

    def interrupted(self, *args):
        shot(self, *args)
        if self._oracle.ledger.shots_weight == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Search, "_shot", interrupted)
    status, record = ran(here, "quantum", "problem=edge8", "hydra.run.dir=run")
    assert status == 130
    assert record["status"] == "partial"
    assert record["rows"][0]["stopped"] == "interrupted"
    assert record["rows"][0]["measurements"] == 6
    assert len(record["rows"][0]["weights"]) == 8


def test_a_sweep_compares(here, capsys):
    words = ["-m", "quantum", "problem=edge3", "baselines=[]", "plots=false"]
    swept = ["optimization=quark,random,exhaustive", "seed=range(2)", "hydra.sweep.dir=run"]
    assert main([*words, *swept]) == 0
    record = json.loads((here / "run" / "result.json").read_text("utf-8"))
    assert len(record["rows"]) == 6
    assert {row["status"] for row in record["rows"]} == {"ok"}
    table = capsys.readouterr().out.rpartition("means over seeds")[2].splitlines()
    heads = next(line.split() for line in table if "overrides" in line)
    means = {row[0]: row for line in table if (row := line.split()) and "=" in row[0]}
    assert set(means) == {f"optimization={name}" for name in ("quark", "random", "exhaustive")}
    for name, row in means.items():
        given = [r["measurements"] for r in record["rows"] if name in r["overrides"]]
        assert row[1] == "2"
        assert float(row[heads.index("measurements")]) == pytest.approx(np.mean(given), rel=1e-3)


def test_plan_says_qubits_memory_theta_k_and_success(here):
    status, record = ran(here, "quantum", "plan", "problem=edge8", "hydra.run.dir=run")
    assert status == 0
    for name in ("qubits", "memory_gib", "theta", "k", "expected_success", "expected_hit"):
        assert record["figures"][name] is not None
    assert {row["engine"] for row in record["rows"]} == {
        "analytic",
        "tensor",
        "compiled",
        "reduced",
        "gates",
    }


def test_a_circuit_that_cannot_fit_is_refused_with_its_numbers(here):
    line = refusal(
        "quantum plan",
        "problem=tiny_mnist",
        "optimization.engine=gates",
        "optimization.test.kind=replicas",
        "optimization.test.m=16",
    )
    assert "qubits need" in line
    assert "GiB" in line
    assert "optimization.engine=gates" in line


def test_an_engine_that_takes_no_such_model_is_refused_with_the_reason(here):
    words = ["problem=edge_distractors", "problem.weights=20", "optimization.engine=gates"]
    line = refusal("quantum plan", *words)
    assert "has no circuit (optimization.engine=gates); choose engine=tensor" in line
    assert "nan" not in line


def test_a_search_that_ends_among_its_first_draws_says_why_nothing_is_drawn(here, capsys):
    words = ["problem=xor", "optimization.schedule.first=64", "baselines=[]"]
    status, _ = ran(here, "quantum", *words, *_QUICK)
    assert status == 0
    assert not (here / "run" / "quantum.png").exists()
    assert "no quantum.png" in capsys.readouterr().err


def test_users_images_are_a_problem(here):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = random.random((60, 6, 6)) + labels[:, None, None] * np.eye(6)
    np.savez(here / "mine.npz", images=images, labels=labels)
    words = ["quantum", "problem=mine.npz", "problem.digits=[0,1]", "baselines=[]"]
    status, record = ran(here, *words, *_QUICK)
    assert status == 0
    assert record["figures"]["test_accuracy"] is not None


@pytest.mark.parametrize(
    ("count", "labels", "said"),
    [(0, 1, "holds no images"), (20, 1, "holds one class only"), (21, 3, "")],
)
def test_images_without_two_classes_are_refused(here, count, labels, said):
    images = np.random.default_rng(0).random((count, 4, 4))
    np.savez(here / "mine.npz", images=images, labels=np.arange(count) % labels)
    words = ["problem=mine.npz", "problem.digits=[0,1]", "baselines=[]"]
    if said:
        assert said in refusal("quantum", *words)
    else:  # two of three
        assert ran(here, "quantum", *words, *_QUICK)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["problem=edge9"], "no such problem.*edge3"),
        (["problem=tiny_mnist", "problem.digits=[6]"], "not a pair"),
        (["problem=tiny_mnist", "problem.digits=[6,6]"], "cannot be told from itself"),
        (["problem=tiny_mnist", "problem.digits=[6,12]"], "no image of class 12"),
        (["optimization.engine=tensro"], "optimization.engine"),
        (["optimization.sampler=arr"], "unknown sampler.*aer"),
        (["optimization.engine=tensor", "optimization.sampler=aer"], "engine=gates"),
        (["optimization.noise.depolarizing_2q=1.5"], "not a probability"),
        (["optimization.budget.shots=0"], "no measurement in the budget.*shots=0"),
        (["optimization.budget.seconds=0"], "no second in the budget"),
        (["optimization.budget.model_queries=0"], "no model query in the budget"),
        (["optimization.test.L=4"], "must be odd.*give 5"),
        (["optimization.block_bits=60"], "no simulator holds.*block_bits=60"),
        (["optimization=grover"], "quark"),
        (["baselines=[rnadom]"], "no such baseline.*random"),
        (["seed=-1"], r"a seed below 0 \(seed=-1\)"),
        (["optimization=random", "optimization.seed=-1"], r"optimization\.seed=-1"),
        (["problem.split_seed=-1"], r"a seed below 0 \(problem\.split_seed=-1\)"),
        (["problem=edge_distractors", "problem.distractor_seed=-2"], "distractor_seed=-2"),
        (["optimization.sampler=os.path:join"], "cannot be called.*os.path:join.*without arg"),
        (["optimization.sampler=os:getcwd"], "a str is no sampler"),
        (["optimization=exhaustive", "optimization.max_bits=2"], "too many to enumerate"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(here, words, said):
    import re

    line = refusal("quantum", *words)
    assert "\n" not in line
    assert re.search(said, line), line


def test_only_quark_exports():
    assert "only Quark builds a circuit" in refusal("quantum export", "optimization=random")


def test_a_plan_of_many_weights_is_that_of_a_block(here):
    words = ["problem=edge_distractors", "problem.weights=30", "optimization.block_bits=10"]
    status, record = ran(here, "quantum", "plan", *words, "hydra.run.dir=run")
    assert status == 0
    rows = {row["engine"]: row for row in record["rows"]}
    assert rows["tensor"]["fits"]
    assert rows["reduced"]["qubits"] == 11


def test_export_writes_a_circuit_that_qiskit_reads_as_qasm(here):
    copies = ["optimization.test.kind=replicas", "optimization.test.m=2"]
    words = ["quantum", "export", "problem=xor", *copies, "optimization.schedule.k=1"]
    status, record = ran(here, *words, "hydra.run.dir=run")
    text = (here / "run" / "circuit.qasm").read_text("utf-8")
    assert status == 0
    assert text.startswith("OPENQASM 3")
    assert record["figures"]["qubits"] == 10
    assert record["figures"]["k"] == 1
