"""What a run leaves, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
from datetime import datetime

import pytest
from fivefold.result import Result, plain


def test_a_run_leaves_configuration_log_and_result(here, tmp_path):
    status, out, err = here("toy", "count=2", "drafting=bold", "hydra.run.dir=out")
    assert (status, out, err) == (0, "hello\n", "")
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(record) == [
        "schema",
        "task",
        "status",
        "error",
        "figures",
        "rows",
        "environment",
    ]
    assert (record["schema"], record["task"], record["status"]) == (1, "toy", "ok")
    assert record["error"] is None
    assert record["figures"] == {"said": 2}
    assert record["rows"] == [{"number": 0, "text": "hello"}, {"number": 1, "text": "hello"}]
    environment = record["environment"]
    assert {"fivefold", "python", "cpu", "torch"} <= set(environment)
    assert environment["cores"] == len(os.sched_getaffinity(0))
    assert environment["threads"] is None  # the toy computes nothing
    assert environment["methods"] == {"drafting": "bold"}
    lines = (tmp_path / "out" / "config.yaml").read_text().splitlines()
    assert lines[0] == "# fivefold toy shape=small count=2 drafting=bold"
    assert "  nodes: 8" in lines
    assert (tmp_path / "out" / "toy.log").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".result")]


def test_access_tokens_are_not_written(here, tmp_path):
    assert here("toy", "shape.token=hidden", "text=??? ${x", "hydra.run.dir=out")[0] == 0
    for path in (tmp_path / "out").iterdir():
        assert "hidden" not in path.read_text()
    assert "text: ??? ${x" in (tmp_path / "out" / "config.yaml").read_text()


@pytest.mark.parametrize("sign", ["", "++"])
@pytest.mark.parametrize("how", [["-m"], ["hydra.mode=MULTIRUN"]])
def test_an_access_token_is_refused_in_a_sweep_which_would_write_it(here, tmp_path, sign, how):
    words = ["toy", f"{sign}shape.token=hidden", "count=1,2", "hydra.sweep.dir=all"]
    words = [word for word in words if how == ["-m"] or "," not in word]
    status, out, err = here(*how, *words)
    assert (status, out) == (2, "")
    assert "shape.token" in err
    assert "HF_TOKEN" in err
    assert "hidden" not in err
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("shape:\n  token: hidden\n", 2),
        ("hydra:\n  sweeper:\n    params:\n      shape.token: hidden,hidden too\n", 2),
        ("shape:\n  token: ${oc.env:TOY_TOKEN}\n", 0),  # a reference is written as it stands
    ],
)
def test_an_access_token_in_a_file_is_not_written_by_a_sweep(
    here, tmp_path, monkeypatch, text, status
):
    monkeypatch.setenv("TOY_TOKEN", "hidden")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}")
    ended = here("toy", "-m", "+experiment=own", "count=1,2", "hydra.sweep.dir=all")
    assert ended[0] == status, ended
    assert ("HF_TOKEN" in ended[2]) is (status == 2)
    written = [path for path in (tmp_path / "all").rglob("*") if path.is_file()]
    assert bool(written) is (status == 0)
    assert not [path for path in written if "hidden" in path.read_text()]


def test_an_access_token_is_not_in_the_line_of_an_error(here, tmp_path):
    status, _, err = here("toy", "shape.token=hidden", "act=refuse-token", "hydra.run.dir=out")
    assert (status, err) == (2, "fivefold: no entry (shape.token=(left out)); ask for one\n")
    assert all("hidden" not in path.read_text() for path in (tmp_path / "out").iterdir())


def test_the_default_folder_holds_task_and_time_below_the_working_directory(here, tmp_path):
    assert here("toy")[0] == 0
    (folder,) = (tmp_path / "outputs" / "toy").iterdir()
    datetime.strptime(folder.name, "%Y-%m-%d_%H-%M-%S-%f")
    assert (folder / "result.json").exists()


def test_two_words_name_a_task(here, tmp_path):
    assert here("toy", "hydra.run.dir=out", "plan")[:2] == (0, "planned\n")
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["task"] == "toy plan"


@pytest.mark.parametrize(
    "words",
    [
        ["toy", "text=x", "hydra.run.dir=out"],
        ["text=x", "toy", "hydra.run.dir=out"],
        ["text=x", "hydra.run.dir=out", "toy"],
        ["--run", "text=x", "toy", "hydra.run.dir=out"],
    ],
)
def test_the_task_may_stand_anywhere(here, words):
    assert here(*words)[:2] == (0, "x\n")


def test_the_working_directory_stays(here, tmp_path):
    here("toy", "hydra.run.dir=out")
    assert os.getcwd() == str(tmp_path)


def test_a_folder_named_with_commas_and_spaces_is_one_folder(here, tmp_path):
    assert here("toy", "hydra.run.dir=a, b/c=d")[0] == 0
    assert (tmp_path / "a, b" / "c=d" / "result.json").exists()


def test_notes_and_warnings_stay_off_stdout_and_logs_go_to_the_file(here, tmp_path):
    assert here("toy", "act=note", "hydra.run.dir=out") == (0, "", "noted\n")
    status, out, err = here("toy", "act=warn", "hydra.run.dir=out")
    assert (status, out) == (0, "")
    assert "mind this" in err
    assert "for the file" not in err
    log = (tmp_path / "out" / "toy.log").read_text()
    assert "noted" in log
    assert "this is for the file" in log


@pytest.mark.parametrize(
    ("act", "status", "recorded", "problem"),
    [
        ("fail", 1, "ok", None),
        ("refuse", 2, "error", "refused"),
        ("partly", 2, "partial", "line 3 is broken"),
        ("bug", 1, "error", "ZeroDivisionError: a bug"),
        ("interrupt", 130, "partial", "interrupted"),
    ],
)
def test_the_result_is_written_whatever_the_end(here, tmp_path, act, status, recorded, problem):
    assert here("toy", f"act={act}", "count=2", "hydra.run.dir=out")[0] == status
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["status"] == recorded
    assert len(record["rows"]) == 2
    assert (record["error"] or {}).get("problem") == problem


def test_a_task_may_report_a_problem_and_go_on(here):
    status, out, err = here("toy", "act=partly", "hydra.run.dir=out")
    assert (status, out) == (2, "went on\n")
    assert err == "fivefold: line 3 is broken (text=hello)\n"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_finished(command, sign):
    words = ["toy", "act=wait", "count=3", "hydra.run.dir=out"]
    with command.start(*words, stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(sign)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err
    record = command.result("out")
    assert (record["status"], len(record["rows"])) == ("partial", 3)


def test_a_reader_that_leaves_ends_the_run_quietly(command):
    words = ["toy", "act=flood", "hydra.run.dir=out"]
    with command.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()
        assert running.wait(30) == 0
    assert err == b""
    assert command.result("out")["status"] == "partial"


@pytest.mark.parametrize("flags", [["--info"], ["--cfg", "all"], ["--help"]])
def test_a_reader_that_has_left_is_not_complained_of(command, flags):
    with command.start("toy", *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        err = running.stderr.read()
        assert running.wait(30) == 0
    assert err == b""


def test_what_hydra_composed_is_shown_up_to_what_it_refuses(here):
    status, out, err = here("toy", "count=x", "--info")
    assert (status, err.count("\n")) == (2, 1)
    assert "Config search path" in out


def test_a_sweep_runs_each_and_ends_with_one_table(here, tmp_path):
    words = ["-m", "toy", "count=1,2", "drafting=steady,bold", "hydra.sweep.dir=all"]
    status, out, _ = here(*words)
    assert status == 0
    assert out.count("hello\n") == 4
    assert out.rstrip().splitlines()[-1].split() == ["3", "count=2", "drafting=bold", "ok", "2"]
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "all").glob("*/result.json")]
    assert sorted(len(job["rows"]) for job in jobs) == [1, 1, 2, 2]


def test_hydras_own_mode_makes_a_sweep_too(here, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = (
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      count: 1,2\n"
    )
    (tmp_path / "conf" / "experiment" / "both.yaml").write_text(text)
    for words in (["hydra.mode=MULTIRUN"], ["+experiment=both"]):
        status, out, err = here("toy", *words, "hydra.sweep.dir=all")
        assert (status, "fivefold toy: " in out) == (0, True), err
    assert out.count("hello\n") == 2


def test_a_sweep_over_enum_and_option_values(here):
    words = ["toy", "mood=calm,very-loud", "shape=small,wide", "-m", "hydra.sweep.dir=all"]
    status, out, _ = here(*words)
    assert (status, out.count("hello\n")) == (0, 4)


def test_a_user_error_in_one_job_is_one_line_and_the_rest_goes_on(here, tmp_path):
    status, out, err = here("-m", "toy", "count=1,-1,2", "hydra.sweep.dir=all")
    assert status == 2
    assert out.count("hello\n") == 2
    assert [line for line in err.splitlines() if line.startswith("fivefold:")] == [
        "fivefold: too few (count=-1); give 0 or more"
    ]
    assert "Traceback" not in err
    assert json.loads((tmp_path / "all" / "1" / "result.json").read_text())["status"] == "error"


def test_a_sweep_leaves_its_table_as_a_result(here, tmp_path):
    here("-m", "toy", "count=1,-1", "hydra.sweep.dir=all")
    record = json.loads((tmp_path / "all" / "result.json").read_text())
    assert (record["task"], record["status"]) == ("toy", "partial")
    assert record["rows"] == [
        {"job": 0, "overrides": "count=1", "status": "ok", "said": 1},
        {"job": 1, "overrides": "count=-1", "status": "error"},
    ]


def test_a_sweep_over_experiments(here, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - override /drafting: "
    (folder / "one.yaml").write_text(f"{head}bold\n")
    (folder / "two.yaml").write_text(f"{head}steady\ntext: two\n")
    status, out, _ = here("-m", "toy", "+experiment=one,two", "hydra.sweep.dir=all")
    assert (status, out.splitlines()[:2]) == (0, ["hello", "two"])


def test_an_interrupted_sweep_stops_and_shows_what_was_finished(here):
    status, out, _ = here("-m", "toy", "count=1,2", "act=interrupt", "hydra.sweep.dir=all")
    assert status == 130
    assert "fivefold toy: 1 job\n" in out
    assert "partial" in out


def test_the_table_of_a_sweep_tells_the_jobs_apart(here, tmp_path):
    words = ["text=the same", "count=1,2", "shape.sides=3"]
    _, out, _ = here("-m", "toy", *words, "hydra.sweep.dir=all")
    assert "fivefold toy: 2 jobs\n" in out
    rows = [line.split() for line in out.rstrip().splitlines()[-2:]]
    assert rows == [["0", "count=1", "ok", "1"], ["1", "count=2", "ok", "2"]]
    record = json.loads((tmp_path / "all" / "result.json").read_text())
    assert record["rows"][0]["overrides"] == "text=the same count=1 shape.sides=3"


def test_a_sweep_with_a_value_of_the_wrong_type_is_refused_before_it_starts(here, tmp_path):
    status, out, err = here("-m", "toy", "count=1,x", "hydra.sweep.dir=all")
    assert (status, out) == (2, "")
    assert "(count=x)" in err
    assert "whole number" in err


def test_hydras_own_flags_work(here):
    status, out, _ = here("toy", "--cfg", "job", "drafting=bold", "text=a,b")
    assert status == 0
    assert "text: a,b\n" in out
    assert "draft: shipped\n" in out
    assert here("--cfg=job", "toy", "--package", "shape")[1] == "# @package shape\n" + (
        "name: small\nsides: 4\ntoken: ''\n"
    )
    assert "Config search path" in here("toy", "--info", "searchpath")[1]
    assert "fivefold_toy" in here("toy", "--info")[1]


def test_a_launcher_may_run_jobs_in_another_process(toy_folder, tmp_path, command_on):
    """A launcher that sends each job through cloudpickle, as joblib and submitit do."""
    pytest.importorskip("cloudpickle")
    wheels = shutil.copytree(toy_folder, tmp_path / "wheels")
    plugin = wheels / "hydra_plugins" / "far_launcher"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("")
    (plugin / "launcher.py").write_text(FAR_LAUNCHER)
    command = command_on(wheels)
    done = command("-m", "toy", "hydra/launcher=far", "count=1,-1", "hydra.sweep.dir=all")
    assert done.returncode == 2, done.stderr
    assert "2 jobs" in done.stdout
    assert command.result("all/0")["status"] == "ok"
    assert command.result("all/1")["status"] == "error"


FAR_LAUNCHER = """
import pickle
import subprocess
import sys
from dataclasses import dataclass

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict


@dataclass
class FarConf:
    _target_: str = "hydra_plugins.far_launcher.launcher.FarLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="far", node=FarConf)


def work(state, context, config, task_function):
    setup_globals()
    Singleton.set_state(state)
    return run_job(
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


class FarLauncher(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        returned = []
        for number, overrides in enumerate(job_overrides):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            call = (work, Singleton.get_state(), self.context, config, self.task_function)
            code = (
                "import pickle, sys; work, *rest = pickle.load(sys.stdin.buffer);"
                "import os; out = os.dup(1); os.dup2(2, 1);"
                "import cloudpickle; os.write(out, cloudpickle.dumps(work(*rest)))"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], input=cloudpickle.dumps(call), stdout=-1, check=True
            )
            returned.append(pickle.loads(done.stdout))
        return returned
"""


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), None),
        (float("inf"), None),
        ({1: (2, {3})}, {"1": [2, [3]]}),
        ({"b", "a"}, ["a", "b"]),
        (b"x", "b'x'"),
        (True, True),
    ],
)
def test_whatever_a_task_records_becomes_strict_json(value, written):
    assert plain(value) == written


def test_numpy_scalars_and_arrays_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert plain({"a": numpy.float32(0.5), "b": numpy.arange(2)}) == {"a": 0.5, "b": [0, 1]}


def test_half_a_character_does_not_spoil_the_file(tmp_path):
    Result("toy", rows=[{"text": "a\ud83d"}]).write(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert record["rows"][0]["text"] == "a\ud83d"
