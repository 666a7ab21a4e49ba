"""A bench measures every method beside plain decoding on the same prompts, and says how."""

import json
from importlib import import_module

import pytest
from fivefold import UserError
from fivefold.testing import compose
from fivefold_speculative.repetition import repeated_4grams

task = import_module("fivefold_speculative.bench")
fronts = import_module("fivefold_speculative.fronts")
QUICK = ["limit=2", "max_new_tokens=16", "repeats=2", "plots=false"]


@pytest.fixture
def bench(folders, cache, tmp_path):
    """Return a function that runs the task on some short prompts and returns its run."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("abcab", "hello", "cabb")))
    (tmp_path / "run").mkdir()

    def call(*overrides):
        settings = [f"model={folders / 'target'}", f"prompts={path}", *QUICK, *overrides]
        run = compose("bench", settings, folder=tmp_path / "run")
        fronts.bench(run.config, run)
        return run

    call.draft = folders / "draft"
    return call


def test_every_method_stands_beside_plain_decoding_with_all_its_columns(bench, capsys):
    draft = f"draft:'{bench.draft}'"
    run = bench(
        f"methods=[prompt_lookup,{{chain:{{length:2,{draft}}}}},{{chain:{{length:5,{draft}}}}}]",
        "batch_size=2",
    )
    rows = run.result.rows
    assert [row["method"].split(",")[0] for row in rows] == [
        "none",
        "prompt_lookup",
        "chain(length=2",
        "chain(length=5",
    ]
    for row in rows:
        assert {"prompts", "temperature", "batch", "seed", *task.COLUMNS} <= set(row)
        assert row["identical_to_plain"] is True
    assert rows[0]["ratio_to_plain"] == 1
    assert rows[0]["mean_acceptance_length"] == 1
    assert rows[2]["mean_acceptance_length"] > 1.2
    assert "repeated_4grams" in capsys.readouterr().out
    cells = [json.loads(line) for line in (run.folder / "cells.jsonl").read_text().splitlines()]
    assert all(len(cell["seconds"]) == 2 for cell in cells)


def test_without_methods_the_chosen_drafting_is_measured(bench):
    run = bench("drafting=prompt_lookup", "drafting.num_tokens=3", "sampling.temperature=0.8")
    plain, lookup = run.result.rows
    assert (plain["method"], lookup["method"]) == ("none", "prompt_lookup")
    assert lookup["identical_to_plain"] is True  # look-up draws what plain sampling draws
    assert max(range(len(lookup["acceptance_histogram"]))) <= 3


def test_samples_by_other_random_numbers_are_not_called_different(bench):
    settings = ["drafting=chain", f"drafting.draft={bench.draft}", "sampling.temperature=0.8"]
    assert bench(*settings).result.rows[1]["identical_to_plain"] is None


def test_methods_take_turns_in_an_order_that_rotates(bench, monkeypatch):
    order, real = [], task.decode_once

    def noted(engine, batch):
        order.append((batch[0].id, engine))
        return real(engine, batch)

    monkeypatch.setattr(task, "decode_once", noted)
    bench("drafting=prompt_lookup")
    assert [prompt for prompt, _ in order] == ["1", "1", "2", "2"] * 2
    first = [engine for _, engine in order[::2]]
    assert first[0] is not first[1]


def test_figures_are_drawn_into_the_run_folder(bench):
    pytest.importorskip("matplotlib")
    run = bench("drafting=prompt_lookup", "plots=true")
    assert (run.folder / "tokens_per_second.png").stat().st_size > 1000
    assert (run.folder / "acceptance.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["methods=[no_such]"], r"no such drafting method \(methods=no_such\)"),
        (
            ["methods=[{prompt_lookup:{num:1}}]"],
            r"no such setting: num=1 of prompt_lookup \(methods=.*\); did you mean num_tokens",
        ),
        (
            ["methods=[{prompt_lookup:{max_ngram:0}}]"],
            r"max_ngram=0 of prompt_lookup \(methods=.*\); raise it or lower min_ngram",
        ),
        (["methods=[3]"], "cannot read 3"),
        (["methods=[prompt_lookup,prompt_lookup]"], "listed twice"),
        (["prompts=missing.jsonl"], r"prompts=missing\.jsonl"),
        (["prompts=humaneval", "split=open"], "only the chat prompts"),
        (["limit=-1"], "limit=-1"),
        (["repeats=0"], "repeats=0"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(bench, overrides, named):
    with pytest.raises(UserError, match=named):
        bench(*overrides)


def test_a_text_that_loops_has_a_high_share_of_repeated_4grams():
    assert repeated_4grams([list(range(20))]) == 0
    assert repeated_4grams([[1, 2] * 10]) == pytest.approx(15 / 17)
    assert repeated_4grams([[1, 2, 3]]) is None


def test_an_interrupted_bench_keeps_what_all_methods_have_finished(bench, monkeypatch):
    """Ctrl-C comes in the first repeat, when both methods have answered one prompt of two."""
    decode, calls = task.decode_once, iter(range(100))

    def interrupted(engine, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return decode(engine, batch)

    monkeypatch.setattr(task, "decode_once", interrupted)
    told = []
    monkeypatch.setattr(task, "report", lambda *given: told.append(given))
    with pytest.raises(KeyboardInterrupt):
        bench("drafting=prompt_lookup")
    ((contenders, batches, *_),) = told
    assert len(batches) == 1
    assert [len(contender.records) for contender in contenders] == [1, 1]
    assert all(contender.tokens_per_second > 0 for contender in contenders)


def test_seconds_a_pass_are_told_by_stage(bench):
    for row in bench("drafting=prompt_lookup").result.rows:
        assert {"t_draft", "t_target", "t_accept", "t_keep"} <= set(row["seconds_a_pass"])
        assert row["seconds_a_pass"]["t_target"] > 0
