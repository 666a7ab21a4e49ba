"""The command line on a tiny model: what a user types, what comes out, what is left."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SHORT = ("max_new_tokens=6",)


def test_help_lists_every_task(fivefold):
    ended = fivefold("--help")
    assert ended.status == 0
    for task in ("generate", "chat", "bench", "audit", "demo", "plugins", "cache"):
        assert task in ended.out


def test_help_of_a_task_has_a_line_for_every_field(fivefold):
    out = fivefold("generate", "--help").out
    for key in ("prompt", "max_new_tokens", "sampling.temperature", "model.name", "cache.max_len"):
        assert key in out
    assert "Most tokens to write for a prompt." in out


def test_version_is_that_of_the_wheel(fivefold):
    from importlib.metadata import version

    assert version("fivefold") in fivefold("--version").out


def test_generate_prints_the_text_and_leaves_it_in_the_result(fivefold, tiny):
    ended = fivefold("generate", "prompt=ab", f"model={tiny}", *SHORT)
    assert ended.status == 0, ended.err
    (row,) = ended.result["rows"]
    assert row["text"] in ended.out
    assert len(row["token_ids"]) == 6
    assert row["finish_reason"] == "length"
    assert ended.result["schema"] == 1
    assert ended.result["status"] == "ok"


@pytest.mark.parametrize("method", ["prompt_lookup", "chain", "expansion"])
def test_greedy_text_is_that_of_plain_decoding(fivefold, tiny, tiny_draft, method):
    words = ["prompt=abcabc", f"model={tiny}", "max_new_tokens=24"]
    plain = fivefold("generate", *words)
    draft = [] if method == "prompt_lookup" else [f"drafting.draft={tiny_draft}"]
    fast = fivefold("generate", *words, f"drafting={method}", *draft)
    assert fast.status == 0, fast.err
    (plain_row,), (fast_row,) = plain.result["rows"], fast.result["rows"]
    assert fast_row["token_ids"] == plain_row["token_ids"]


@pytest.mark.parametrize(
    ("words", "environment", "threads"),
    [(["runtime.threads=2"], {"OMP_NUM_THREADS": "1"}, 2), ([], {"OMP_NUM_THREADS": "1"}, 1)],
)
def test_result_says_how_many_threads_were_used(fivefold, tiny, words, environment, threads):
    ended = fivefold("generate", "prompt=ab", f"model={tiny}", *SHORT, *words, env=environment)
    assert ended.status == 0, ended.err
    assert ended.result["environment"]["threads"] == threads


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("generate st", "stop="),
        ("generate drafting=expansion drafting.w", "drafting.widths="),
        ("bench meth", "methods="),
        ("cache c", "clear"),
    ],
)
def test_completion_offers_what_can_be_typed(typed, offered):
    command = [sys.executable, "-m", "fivefold", "-sc", "query=bash"]
    environment = {**os.environ, "COMP_LINE": f"fivefold {typed}"}
    assert subprocess.check_output(command, env=environment, text=True) == f"{offered}\n"


def test_task_of_a_blocked_wheel_is_said_to_be_blocked(fivefold):
    line = fivefold("generate", "prompt=hi", env={"FIVEFOLD_BLOCK": "fivefold-speculative"}).refusal
    assert "blocked by FIVEFOLD_BLOCK: fivefold-speculative" in line


def test_same_seed_gives_the_same_sampled_text(fivefold, tiny):
    words = ["prompt=ab", f"model={tiny}", "sampling.temperature=1", "sampling.seed=3", *SHORT]
    first, second = (fivefold("generate", *words).result["rows"] for _ in range(2))
    assert first[0]["token_ids"] == second[0]["token_ids"]


@pytest.mark.parametrize(
    "text", ["a,b", "[a]", "'a' \"b\"", "{a:b}", "a\nb", "Ü~", "12", "null", "$" + "{x}", "a=b"]
)
def test_text_of_a_prompt_is_literal(fivefold, text):
    ended = fivefold("generate", f"prompt={text}", "--cfg", "job")
    assert ended.status == 0, ended.err
    import yaml

    assert yaml.safe_load(ended.out)["prompt"].replace("\\$", "$") == text


def test_prompt_from_standard_input(fivefold, tiny):
    ended = fivefold("generate", "prompt=-", f"model={tiny}", *SHORT, stdin="abc\n")
    assert ended.status == 0, ended.err
    assert ended.result["rows"][0]["prompt"] == "abc"


def test_file_of_prompts_is_answered_whatever_the_batch(fivefold, tiny, tmp_path):
    lines = [json.dumps({"id": str(n), "prompt": "abcdefgh"[: n + 1]}) for n in range(5)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    texts = []
    for batch in (1, 3):
        words = [f"batch_size={batch}", f"output=out{batch}.jsonl", f"model={tiny}", *SHORT]
        ended = fivefold("generate", "input=in.jsonl", *words)
        assert ended.status == 0, ended.err
        records = (tmp_path / f"out{batch}.jsonl").read_text("utf-8").splitlines()
        answers = [json.loads(record) for record in records]
        texts.append({answer["id"]: answer["token_ids"] for answer in answers})
    assert texts[0] == texts[1]
    assert len(texts[0]) == 5


def test_sweep_leaves_one_result_a_job_and_goes_on_after_an_error(fivefold, tiny, tmp_path):
    words = ["max_new_tokens=2,-1,3", "prompt=ab", f"model={tiny}"]
    ended = fivefold("generate", "-m", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ended.status == 2
    results = sorted((tmp_path / "sweep").glob("*/result.json"))
    statuses = [json.loads(file.read_text("utf-8"))["status"] for file in results]
    assert statuses.count("ok") == 2, ended.err
    assert "Traceback" not in ended.err


def test_bench_compares_with_plain_decoding(fivefold, tiny, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "abcabcabc"}\n{"prompt": "bcdbcd"}\n')
    words = ["methods=[prompt_lookup]", "prompts=in.jsonl", "repeats=1", "plots=false"]
    ended = fivefold("bench", *words, "max_new_tokens=8", f"model={tiny}")
    assert ended.status == 0, ended.err
    rows = {row["method"]: row for row in ended.result["rows"]}
    assert set(rows) == {"none", "prompt_lookup"}
    assert rows["prompt_lookup"]["identical_to_plain"] is True
    assert rows["none"]["ratio_to_plain"] == 1


def test_audit_of_a_lossless_method_passes(fivefold, tiny):
    words = ["drafting=prompt_lookup", "toy_samples=2000", "model_samples=0", "max_new_tokens=12"]
    ended = fivefold("audit", f"model={tiny}", *words)
    assert ended.status == 0, ended.out + ended.err
    assert all(row["passed"] for row in ended.result["rows"])


def test_demo_says_that_the_texts_are_identical(fivefold, tiny):
    words = ["drafting=prompt_lookup", "prompt=abcabc", "max_new_tokens=12", f"model={tiny}"]
    ended = fivefold("demo", *words)
    assert ended.status == 0, ended.err
    assert "identical to plain decoding: yes" in ended.out


def test_chat_answers_every_line_and_remembers(fivefold, tiny):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    words = [f"model={tiny}", f"model.chat_template={template}", "max_new_tokens=4"]
    ended = fivefold("chat", *words, stdin="ab\ncd\n")
    assert ended.status == 0, ended.err
    assert len(ended.result["rows"]) == 2


def test_chat_without_a_template_says_which_setting_gives_one(fivefold, tiny):
    ended = fivefold("chat", f"model={tiny}", stdin="ab\n")
    assert "model.chat_template" in ended.err
    assert "Traceback" not in ended.err


def test_cache_is_listed_and_cleared(fivefold, tmp_path):
    env = {"FIVEFOLD_CACHE": str(tmp_path / "cache")}
    fivefold("cache", env=env)
    (tmp_path / "cache" / "thing").write_text("12345")
    assert "thing" in fivefold("cache", "list", env=env).out
    assert fivefold("cache", "clear", env=env).status == 0
    assert not (tmp_path / "cache" / "thing").exists()


def test_interrupted_run_keeps_finished_answers_and_ends_with_130(tiny, tmp_path):
    lines = [json.dumps({"id": str(n), "prompt": "ab"}) for n in range(2000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    words = ["input=in.jsonl", "output=out.jsonl", f"model={tiny}", "max_new_tokens=16"]
    command = [sys.executable, "-m", "fivefold", "generate", *words, "hydra.run.dir=run"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (tmp_path / "out.jsonl").exists() and os.stat(tmp_path / "out.jsonl").st_size)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    answers = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert all(json.loads(answer)["finish_reason"] for answer in answers)
    result = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    assert result["status"] == "partial"
    finished = [row for row in result["rows"] if row["finish_reason"] == "length"]
    assert 0 < len(finished) < 2000


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.05)
