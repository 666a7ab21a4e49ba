"""Every composition in conf/ could be run, and those of the sources hold what is published."""

from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from fivefold import UserError

HOUSE = Path(__file__).parents[2]
EXPERIMENTS = sorted(HOUSE.glob("conf/experiment/*.yaml"))
PUBLISHED = {
    "sequoia_a100_7b_greedy": (0, {"nodes": 128, "levels": 10}),
    "sequoia_a100_7b_sampled": (0.6, {"nodes": 128, "levels": 7}),
    "sequoia_a100_13b_greedy": (0, {"nodes": 64}),
    "sequoia_a100_13b_sampled": (0.6, {"nodes": 64}),
    "sequoia_a100_33b_greedy": (0, {"nodes": 64}),
    "sequoia_a100_33b_sampled": (0.6, {"nodes": 64}),
    "sequoia_offloaded": (0.6, {"nodes": 768, "levels": 18}),
    "sequoia_offloaded_small_draft": (0.6, {"nodes": 768, "levels": 18}),
    "sequoia_offloaded_small_card": (0.6, {"nodes": 768, "levels": 18}),
    "specinfer_tree": (0, {"widths": [1, 1, 3, 1, 1, 1, 1, 1]}),
    "specinfer_offloaded_13b": (0, {"widths": [1, 1, 3, 1, 1, 1, 1, 1]}),
    "specinfer_offloaded_30b": (0, {"widths": [1, 1, 3, 1, 1, 1, 1, 1]}),
    "specexec_16bit_greedy": (0, {"budget": 2048}),
    "specexec_16bit_sampled": (0.6, {"budget": 2048}),
    "specexec_4bit": (0.6, {"budget": 256}),
    "specexec_4bit_small_card": (0.6, {"budget": 128}),
    "specexec_4bit_small_draft": (0.6, {"budget": 128}),
}
"""Temperature and tree of the set-ups of one method."""


def settings_of(name):
    return yaml.safe_load((HOUSE / "conf" / "experiment" / f"{name}.yaml").read_text("utf-8"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_experiment_would_run_as_the_task_it_names(accept, file):
    """It composes, and passes the checks of its settings' classes and of the task."""
    (words,) = [
        line.removeprefix("# fivefold ").split()
        for line in file.read_text("utf-8").splitlines()
        if line.startswith("# fivefold ")
    ]
    task = list(takewhile(lambda word: "=" not in word, words))  # one word or two
    assert words == [*task, f"+experiment={file.stem}"]
    accept(words)


@pytest.mark.parametrize("name", PUBLISHED)
def test_set_up_has_the_published_temperature_and_tree(name):
    temperature, tree = PUBLISHED[name]
    settings = settings_of(name)
    assert settings.get("sampling", {}).get("temperature", 0) == temperature
    assert tree.items() <= settings["drafting"].items()


def test_every_set_up_of_the_three_sources_is_compared_or_listed():
    """One that drafts by a single method has a published tree."""
    sources = ("sequoia_", "specinfer_", "specexec_")
    ours = [file.stem for file in EXPERIMENTS if file.stem.startswith(sources)]
    assert {name for name in ours if "methods" not in settings_of(name)} == set(PUBLISHED)


@pytest.mark.parametrize("name", [f.stem for f in EXPERIMENTS])
def test_set_up_that_is_published_offloaded_streams(name):
    if "offloaded" in name or name.startswith("specexec_"):
        model = settings_of(name)["model"]
        assert model["offload"] == "disk"
        assert model["memory"]


def test_budgets_are_those_of_the_sample_run():
    methods = settings_of("specexec_budgets")["methods"]
    assert [entry["specexec"]["budget"] for entry in methods] == [128, 256, 512]


def test_baseline_has_the_published_number_of_nodes():
    from fivefold_speculative import TreeTopology

    ours, theirs = settings_of("specexec_baseline")["methods"]
    assert ours["specexec"]["budget"] == 2048
    assert TreeTopology.expansion(theirs["expansion"]["widths"]).num_nodes == 1024


def test_naive_sampling_judges_the_same_draws_by_another_rule():
    multi_step, naive = settings_of("specinfer_stochastic"), settings_of("specinfer_naive")
    assert (multi_step.pop("rule"), naive.pop("rule")) == ("multi_step", "lookup")
    assert naive == multi_step
    assert all(entry["specinfer"]["proposal"] == "sampled" for entry in naive["methods"])


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
