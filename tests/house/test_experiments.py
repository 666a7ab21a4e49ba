"""Every composition in conf/ composes."""

from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
EXPERIMENTS = sorted(HOUSE.glob("conf/experiment/*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_experiment_composes_with_the_task_it_names(fivefold, file):
    (task,) = [
        line.removeprefix("# fivefold ").split()[0]
        for line in file.read_text("utf-8").splitlines()
        if line.startswith("# fivefold ")
    ]
    ended = fivefold(task, f"+experiment={file.stem}", "--cfg", "job", cwd=HOUSE)
    assert ended.status == 0, ended.err


def test_there_are_experiments():
    assert EXPERIMENTS
