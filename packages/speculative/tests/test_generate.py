"""`fivefold generate` answers what it is given, and never loses a finished answer."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from io import BytesIO, TextIOWrapper

import pytest
from fivefold import Run, UserError
from fivefold.testing import compose
from fivefold_lm.testing import tiny_model
from fivefold_speculative import DraftLoader, Session, answers
from fivefold_speculative import generate as _api  # noqa: F401 - the name is the function
from fivefold_speculative.task_configs import GenerateConfig

task = import_module("fivefold_speculative.fronts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model"
    model = tiny_model(vocab=24)
    model.module.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def generate(folder, tmp_path, monkeypatch, capsys):
    """Return a function that runs the task and returns the run and what stdout got."""
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "cache"))

    def call(*overrides):
        run = compose("generate", [f"model={folder}", "max_new_tokens=12", *overrides])
        call.run = run
        task.generate(run.config, run)
        return run, capsys.readouterr()

    return call


def records(path, count=6, broken=()):
    lines = [json.dumps({"id": f"p{i}", "prompt": "abcab"[: 1 + i % 5]}) for i in range(count)]
    for place in broken:
        lines[place] = '{"prompt": '
    path.write_text("\n".join(lines) + "\n")
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_prompt_is_streamed_and_its_figures_go_to_stderr(generate):
    run, shown = generate("prompt=abcabc")
    (row,) = run.result.rows
    assert shown.out == row["text"] + "\n"
    assert "tokens/s" in shown.err
    assert {"id", "prompt", "text", "token_ids", "finish_reason"} <= set(row)
    assert run.result.figures["num_new_tokens"] == len(row["token_ids"])
    assert run.result.figures["mean_acceptance_length"] == 1


def test_a_draft_that_cannot_be_had_is_looked_for_once(generate, monkeypatch):
    asked = []
    right = DraftLoader.__call__

    def noted(self, name, kind):
        asked.append(name)
        return right(self, name, kind)

    monkeypatch.setattr(DraftLoader, "__call__", noted)
    with pytest.raises(UserError, match="no such draft file"):
        generate("prompt=abcabc", "drafting=chain", "drafting.draft=none.safetensors")
    assert asked == ["none.safetensors"]


def test_nothing_is_written_to_stdout_where_no_answer_begins(generate, capsys):
    with pytest.raises(UserError, match="no such draft file"):
        generate("prompt=abcabc", "drafting=chain", "drafting.draft=none.safetensors")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_batch_of_records_gives_each_the_text_it_has_alone(
    generate, tmp_path, batch_size, temperature
):
    path = records(tmp_path / "in.jsonl")
    settings = [f"input={path}", f"sampling.temperature={temperature}", "drafting=prompt_lookup"]
    alone, _ = generate(*settings, "batch_size=1")
    run, shown = generate(*settings, f"batch_size={batch_size}", f"output={tmp_path}/out.jsonl")
    by_id = {row["id"]: row["token_ids"] for row in run.result.rows}
    assert by_id == {row["id"]: row["token_ids"] for row in alone.result.rows}
    assert {row["id"]: row["token_ids"] for row in lines_of(tmp_path / "out.jsonl")} == by_id
    assert shown.out == ""


def test_several_answers_to_one_prompt_are_texts_under_headings(generate):
    run, shown = generate("prompt=ab", "num_samples=3", "sampling.temperature=1.5")
    texts = [row["text"] for row in run.result.rows]
    assert len(set(texts)) > 1
    headed = [f"--- answer {place} of 3\n{text}\n" for place, text in enumerate(texts, start=1)]
    assert shown.out == "".join(headed)


def test_several_answers_go_to_stdout_as_records_where_records_are_asked_for(generate):
    words = ["prompt=ab", "num_samples=3", "sampling.temperature=1.5", "output=-"]
    _, shown = generate(*words)
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["sample"] for row in found] == [0, 1, 2]
    assert len({tuple(row["token_ids"]) for row in found}) > 1


def test_the_model_is_announced_on_stderr_before_it_is_loaded(generate, folder):
    _, shown = generate("prompt=ab")
    assert shown.err.splitlines()[0] == f"loading {folder}"
    assert "loading" not in shown.out


def test_with_nothing_drafted_there_is_no_acceptance_rate(generate):
    run, _ = generate("prompt=ab")
    assert run.result.rows[0]["draft_acceptance_rate"] is None
    assert run.result.figures["draft_acceptance_rate"] is None


def test_one_answer_can_go_to_stdout_as_a_record_too(generate):
    run, shown = generate("prompt=ab", "output=-")
    assert json.loads(shown.out)["token_ids"] == run.result.rows[0]["token_ids"]


def test_a_broken_line_is_named_and_the_others_are_answered(generate, tmp_path):
    path = records(tmp_path / "in.jsonl", broken=[2])
    run, shown = generate(f"input={path}", f"output={tmp_path}/out.jsonl")
    assert "line 3" in shown.err
    assert run.result.partial_error is not None
    assert run.result.figures["num_failed"] == 1
    found = {row["id"]: row for row in lines_of(tmp_path / "out.jsonl")}
    assert set(found) == {"p0", "p1", "3", "p3", "p4", "p5"}
    assert found["3"]["error"] == "line 3: not JSON (Expecting value: column 12)"
    assert "the other lines are answered" in shown.err
    assert "text" in found["p5"]


def test_a_broken_line_that_is_alone_is_an_error(generate, tmp_path):
    path = records(tmp_path / "in.jsonl", count=1, broken=[0])
    with pytest.raises(UserError, match="line 1: not JSON"):
        generate(f"input={path}")


def test_a_prompt_too_long_for_the_context_costs_only_itself(generate, tmp_path):
    path = tmp_path / "in.jsonl"
    prompts = [{"id": "long", "prompt": "a" * 300}, {"id": "short", "prompt": "ab"}]
    path.write_text("\n".join(map(json.dumps, prompts)))
    run, shown = generate(f"input={path}")
    assert "long has 300 tokens" in shown.err
    assert json.loads(shown.out.splitlines()[0]) == run.result.rows[0]
    assert [row.get("error") is None for row in run.result.rows] == [False, True]


def test_text_is_read_whole_from_a_file_and_from_standard_input(generate, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("abc\ncab\n")
    from_file, _ = generate(f"input={tmp_path}/in.txt")
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"abc\ncab\n")))
    from_stdin, _ = generate("prompt=-")
    assert from_file.result.rows[0]["prompt"] == "abc\ncab" == from_stdin.result.rows[0]["prompt"]


def test_stop_strings_end_the_answer_before_them(generate):
    run, _ = generate("prompt=abcabc", "max_new_tokens=40")
    text = run.result.rows[0]["text"]
    stop = text[3:5]
    cut, shown = generate("prompt=abcabc", "max_new_tokens=40", f"stop=[{stop}]")
    assert cut.result.rows[0]["text"] == text[: text.index(stop)]
    assert cut.result.rows[0]["finish_reason"] == "stop"
    assert shown.out == cut.result.rows[0]["text"] + "\n"


def test_logprobs_are_those_of_the_model(generate):
    run, _ = generate("prompt=abc", "logprobs=2", "max_new_tokens=3")
    (row,) = run.result.rows
    assert [entry["token"] for entry in row["logprobs"]] == row["token_ids"]
    for entry in row["logprobs"]:
        assert entry["logprob"] == pytest.approx(entry["top"][0][1])
        assert entry["token"] == entry["top"][0][0]
        assert len(entry["top"]) == 2


def test_ctrl_c_keeps_what_was_finished(generate, tmp_path, monkeypatch):
    path, real = records(tmp_path / "in.jsonl"), answers.Answer.row
    seen = []

    def row(self):
        seen.append(self.id)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(answers.Answer, "row", row)
    with pytest.raises(KeyboardInterrupt):
        generate(f"input={path}", f"output={tmp_path}/out.jsonl")
    assert [line["id"] for line in lines_of(tmp_path / "out.jsonl")] == ["p0", "p1"]


@pytest.mark.parametrize("place", ["between two tokens", "while a piece is shown"])
def test_ctrl_c_keeps_what_was_streamed_of_an_answer(generate, monkeypatch, place):
    whole, _ = generate("prompt=abcabc")
    calls = iter(range(100))

    def interrupt_at_the_fifth(real):
        def call(*arguments, **options):
            if next(calls) == 4:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    places = {"between two tokens": (Session, "verify"), "while a piece is shown": (Run, "stream")}
    owner, name = places[place]
    monkeypatch.setattr(owner, name, interrupt_at_the_fifth(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        generate("prompt=abcabc")
    (row,) = generate.run.result.rows
    assert row["finish_reason"] == "cancelled"
    assert 0 < len(row["token_ids"]) < 12
    assert whole.result.rows[0]["text"].startswith(row["text"])
    assert row["token_ids"] == whole.result.rows[0]["token_ids"][: len(row["token_ids"])]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["prompt="], "prompt is empty"),
        (["prompt=  "], "prompt is empty"),
        ([], "prompt is empty"),
        (["prompt=a", "input=b.jsonl"], "both a prompt"),
        (["prompt=a", "max_new_tokens=0"], "max_new_tokens=0"),
        (["prompt=a", "max_new_tokens=-3"], "max_new_tokens=-3"),
        (["prompt=a", "num_samples=0"], "num_samples=0"),
        (["prompt=a", "batch_size=0"], "batch_size=0"),
        (["prompt=a", "logprobs=-1"], "logprobs=-1"),
        (["prompt=a", "chat=sometimes"], "chat=sometimes"),
        (["prompt=a", "chat=always"], "no chat template"),
        (["prompt=a", "rule=best"], "rule=best"),
        (["prompt=a", "stop=['']"], "stop"),
        (["prompt=a", "sampling.temperature=-1"], r"sampling\.temperature=-1"),
        (["prompt=a", "sampling.top_p=1.5"], r"sampling\.top_p=1\.5"),
        (["input=missing.jsonl"], "input=missing.jsonl"),
        (["prompt=a", "output=missing/out.jsonl"], "output=missing/out.jsonl"),
        (["prompt=a", "cache.max_len=1"], r"1 token, .*\(cache\.max_len=1\); raise cache\.max_len"),
        (["prompt=" + "a" * 300], "has 300 tokens, and the context holds 256, new ones included"),
    ],
)
def test_bad_input_is_one_line_that_names_the_setting(generate, overrides, named):
    with pytest.raises(UserError, match=named) as caught:
        generate(*overrides)
    assert "\n" not in str(caught.value)


def test_the_answers_may_not_overwrite_the_prompts(generate, tmp_path):
    path = records(tmp_path / "in.jsonl")
    with pytest.raises(UserError, match="overwrite"):
        generate(f"input={path}", f"output={path}")
    assert len(lines_of(path)) == 6


def test_a_full_memory_is_said_in_one_line(generate, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")
        yield

    monkeypatch.setattr("fivefold_speculative.engine.decode", full)
    with pytest.raises(UserError, match=r"out of memory.*batch_size"):
        generate("prompt=abc")


def test_a_rule_that_does_not_suit_the_method_is_refused_before_a_model_is_loaded():
    run = compose("generate", ["prompt=a", "drafting=prompt_lookup", "rule=multi_step"])
    check = import_module("fivefold_speculative.task_configs").check_pair
    with pytest.raises(UserError, match="rule=multi_step"):
        check(run.config, run)
    assert isinstance(run.config, GenerateConfig)


def test_a_file_of_one_record_is_answered_by_one_record(generate, tmp_path):
    run, shown = generate(f"input={records(tmp_path / 'in.jsonl', count=1)}")
    assert json.loads(shown.out) == json.loads(json.dumps(run.result.rows[0]))


def test_a_batch_that_cannot_be_finished_does_not_cost_the_others(generate, tmp_path, monkeypatch):
    """The second of three batches runs out of memory."""
    calls = iter(range(100))
    batch = answers.Engine.batch

    def short_of_memory(engine, *arguments, **options):
        if next(calls) == 1:
            raise UserError("out of memory", remedy="lower batch_size")
        return batch(engine, *arguments, **options)

    monkeypatch.setattr(answers.Engine, "batch", short_of_memory)
    path = records(tmp_path / "in.jsonl", count=6)
    run, _ = generate(f"input={path}", "batch_size=2", f"output={tmp_path}/out.jsonl")
    filed = lines_of(tmp_path / "out.jsonl")
    failed = {row["id"]: "error" in row for row in filed}
    assert failed == {f"p{i}": i in (2, 3) for i in range(6)}
    assert run.result.partial_error is not None


def test_the_only_answer_that_cannot_be_finished_is_an_error(generate, monkeypatch):
    def short_of_memory(engine, *arguments, **options):
        raise UserError("out of memory", remedy="lower batch_size")

    monkeypatch.setattr(answers.Engine, "batch", short_of_memory)
    with pytest.raises(UserError, match="out of memory"):
        generate("prompt=abc")


@pytest.mark.parametrize(
    ("task_name", "overrides", "named"),
    [
        ("generate", [], "prompt is empty"),
        ("generate", ["input=missing.jsonl"], "cannot read the file"),
        ("generate", ["input=latin.txt"], "not UTF-8 text"),
        ("generate", ["prompt=a", "output=missing/out.jsonl"], "cannot write the file"),
        ("bench", ["prompts=missing.jsonl"], "cannot read the file"),
    ],
)
def test_what_can_be_refused_without_torch_is_refused_without_it(
    tmp_path, monkeypatch, task_name, overrides, named
):
    """The module that decodes is not even imported, and the model is not announced."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("Gr\u00fc\u00dfe".encode("latin-1"))
    monkeypatch.setitem(sys.modules, f"fivefold_speculative.{task_name}", None)
    monkeypatch.setattr(task, "announce", lambda run: pytest.fail("the model is loaded"))
    run = compose(task_name, overrides)
    with pytest.raises(UserError, match=named):
        getattr(task, task_name)(run.config, run)


def test_the_fronts_of_the_tasks_need_no_torch():
    program = "import fivefold_speculative.fronts, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"
