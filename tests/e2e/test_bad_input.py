"""Whatever a user gets wrong is one line with the setting and the remedy, and status 2."""

import json
from pathlib import Path

import pytest

LIGHT = {
    "unknown_task": (["genrate", "prompt=hi"], "genrate", "generate"),
    "unknown_method": (["generate", "prompt=hi", "drafting=chian"], "drafting=chian", "chain"),
    "unknown_key": (["generate", "prompt=hi", "promt=ho"], "promt", "prompt"),
    "unknown_key_of_a_method": (
        ["generate", "prompt=hi", "drafting=chain", "drafting.lenght=3"],
        "drafting.lenght",
        "length",
    ),
    "unknown_flag": (["generate", "--mutlirun"], "--mutlirun", "--multirun"),
    "value_of_another_type": (
        ["generate", "prompt=hi", "max_new_tokens=many"],
        "max_new_tokens=many",
        "whole number",
    ),
    "negative_length": (["generate", "prompt=hi", "max_new_tokens=-3"], "max_new_tokens=-3", "1"),
    "negative_samples": (["generate", "prompt=hi", "num_samples=0"], "num_samples=0", "1"),
    "negative_temperature": (
        ["generate", "prompt=hi", "sampling.temperature=-1"],
        "sampling.temperature=-1",
        "0 or more",
    ),
    "top_p_above_one": (
        ["generate", "prompt=hi", "sampling.top_p=1.5"],
        "sampling.top_p=1.5",
        "at most 1",
    ),
    "negative_top_k": (["generate", "prompt=hi", "sampling.top_k=-1"], "sampling.top_k=-1", "0"),
    "negative_cache": (["generate", "prompt=hi", "cache.max_len=-1"], "cache.max_len=-1", "0"),
    "unknown_dtype": (["generate", "prompt=hi", "model.dtype=float23"], "model.dtype", "float32"),
    "unknown_rule": (["generate", "prompt=hi", "rule=greedily"], "rule=greedily", "greedy"),
    "rule_that_is_not_lossless": (
        ["generate", "prompt=hi", "drafting=prompt_lookup", "rule=multi_step"],
        "rule=multi_step",
        "auto",
    ),
    "greedy_rule_while_sampling": (
        ["generate", "prompt=hi", "rule=greedy", "sampling.temperature=1"],
        "rule=greedy",
        "temperature",
    ),
    "prompt_and_input": (["generate", "prompt=hi", "input=some.jsonl"], "input=some.jsonl", "one"),
    "unknown_experiment": (
        ["generate", "prompt=hi", "+experiment=none_such"],
        "conf/experiment",
        "root folder of a checkout",
    ),
    "unknown_method_in_bench": (["bench", "methods=[chian]"], "chian", "chain"),
}


@pytest.mark.parametrize(("words", "named", "remedy"), LIGHT.values(), ids=LIGHT)
def test_wrong_setting_is_refused_in_one_line(fivefold, words, named, remedy):
    line = fivefold(*words).refusal
    assert named in line
    assert remedy in line.partition("; ")[2]


MODEL = {
    "missing_folder": ("no/such/folder", "model"),
    "empty_folder": ("empty", "model"),
    "gguf_that_is_none": ("broken.gguf", "model"),
    "folder_with_a_broken_config": ("broken", "model"),
    "no_access_to_the_hub": ("nobody/private-model", "model"),
}


@pytest.mark.parametrize(("name", "setting"), MODEL.values(), ids=MODEL)
def test_model_that_cannot_be_loaded_is_refused_in_one_line(fivefold, tmp_path, name, setting):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "broken.gguf").write_bytes(b"not a model at all")
    env = {"HF_HUB_OFFLINE": "1"}
    line = fivefold("generate", "prompt=hi", f"model={name}", env=env).refusal
    assert setting in line
    assert name in line


def test_empty_prompt_is_refused(fivefold, tiny):
    assert "prompt" in fivefold("generate", "prompt=", f"model={tiny}").refusal


def test_nothing_to_answer_is_refused(fivefold, tiny):
    assert "prompt" in fivefold("generate", f"model={tiny}").refusal


def test_prompt_longer_than_the_context_is_refused_with_both_lengths(fivefold, tiny):
    line = fivefold("generate", f"prompt={'ab' * 200}", f"model={tiny}").refusal
    assert "400" in line
    assert "256" in line


def test_draft_of_another_vocabulary_is_refused(fivefold, tiny, tiny_stranger):
    words = ["drafting=chain", f"drafting.draft={tiny_stranger}"]
    line = fivefold("generate", "prompt=ab", f"model={tiny}", *words).refusal
    assert "drafting.draft" in line
    assert "40" in line
    assert "128" in line


def test_no_shipped_draft_for_a_strange_model_is_refused(fivefold, tiny):
    line = fivefold("generate", "prompt=ab", f"model={tiny}", "drafting=feature_head").refusal
    assert "drafting.draft" in line


def test_missing_input_file_is_refused(fivefold, tiny):
    line = fivefold("generate", "input=no-such.jsonl", f"model={tiny}").refusal
    assert "input=" in line
    assert "no-such.jsonl" in line


def test_input_that_is_no_utf8_is_refused(fivefold, tiny, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert "UTF-8" in fivefold("generate", "input=latin.txt", f"model={tiny}").refusal


def test_standard_input_that_is_no_utf8_is_refused(fivefold, tiny):
    ended = fivefold("generate", "prompt=-", f"model={tiny}", stdin=b"\xff\xfe\xfa")
    assert "UTF-8" in ended.refusal


def test_output_that_cannot_be_written_is_refused(fivefold, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["prompt=ab", "output=file/answers.jsonl", f"model={tiny}"]
    line = fivefold("generate", *words).refusal
    assert "output=" in line


def test_run_folder_that_cannot_be_written_is_refused(fivefold, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["prompt=ab", f"model={tiny}", "hydra.run.dir=file/run"]
    assert "hydra.run.dir" in fivefold("generate", *words).refusal


def test_run_folder_whose_log_cannot_be_written_is_refused(fivefold, tmp_path):
    (tmp_path / "run" / "generate.log").mkdir(parents=True)
    assert "hydra.run.dir" in fivefold("generate", "prompt=ab", "hydra.run.dir=run").refusal


def test_cache_folder_that_cannot_be_made_is_refused(fivefold, tmp_path):
    (tmp_path / "file").write_text("")
    ended = fivefold("cache", env={"FIVEFOLD_CACHE": str(tmp_path / "file" / "cache")})
    assert "FIVEFOLD_CACHE" in ended.refusal


def test_broken_line_is_named_by_number_and_the_others_are_answered(fivefold, tiny, tmp_path):
    lines = ['{"id": "a", "prompt": "ab"}', '{"prompt": ', '{"id": "c", "prompt": "cd"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    words = ["input=in.jsonl", "output=out.jsonl", "max_new_tokens=4", f"model={tiny}"]
    ended = fivefold("generate", *words)
    assert "line 2" in ended.refusal
    answers = read_records(tmp_path / "out.jsonl")
    assert {answer["id"] for answer in answers if "text" in answer} == {"a", "c"}
    assert ended.result["status"] == "partial"


def test_debug_shows_the_traceback(fivefold, tiny):
    ended = fivefold("generate", "prompt=", f"model={tiny}", "debug=true")
    assert ended.status == 2
    assert "Traceback" in ended.err


def read_records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
