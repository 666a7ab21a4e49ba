"""Every composition in conf/ could be run."""

from itertools import takewhile
from pathlib import Path

import pytest
from fivefold import UserError

HOUSE = Path(__file__).parents[2]
EXPERIMENTS = sorted(HOUSE.glob("conf/experiment/*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_experiment_would_run_as_the_task_it_names(accept, file):
    """It composes, and passes the checks of its settings' classes and of the task."""
    (words,) = [
        line.removeprefix("# fivefold ").split()
        for line in file.read_text("utf-8").splitlines()
        if line.startswith("# fivefold ")
    ]
    task = list(takewhile(lambda word: "=" not in word, words))  # one word or two
    accept([*task, f"+experiment={file.stem}"])


@pytest.mark.parametrize(
    "settings",
    [
        "sampling:\n  temperature: -1\n",
        "drafting:\n  min_ngram: 9\n",
        "rule: multi_step\n",
        "max_new_tokens: 0\n",
    ],
)
def test_experiment_that_would_be_refused_is_noticed(accept, tmp_path, monkeypatch, settings):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - override /drafting: prompt_lookup\n"
    (tmp_path / "conf" / "experiment" / "wrong.yaml").write_text(head + settings)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        accept(["generate", "+experiment=wrong"])


def test_there_are_experiments():
    assert EXPERIMENTS
