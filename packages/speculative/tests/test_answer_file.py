"""A finished answer is never lost, and an earlier file lives until there is a new answer."""

import json
import os
from pathlib import Path

import pytest
from fivefold import UserError
from fivefold_speculative.answer_file import AnswerFile


def test_every_record_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "out.jsonl"
    with AnswerFile(path) as answers:
        for index in range(3):
            answers.write({"id": index, "text": "Ü\n\u2028"})
            lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
            assert [json.loads(line)["id"] for line in lines] == list(range(index + 1))


def test_an_earlier_file_is_replaced_by_the_first_answer_and_not_before(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("earlier\n")
    with AnswerFile(path) as answers:
        assert path.read_text() == "earlier\n"
        answers.write({"id": 1})
        assert path.read_text() == '{"id": 1}\n'


def test_half_a_surrogate_pair_does_not_stop_the_answer(tmp_path):
    with AnswerFile(tmp_path / "out.jsonl") as answers:
        answers.write({"text": "\ud83d"})
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["text"] == "?"


@pytest.mark.parametrize("name", ["missing/out.jsonl", "."])
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path, name):
    with pytest.raises(UserError, match=r"cannot write.*output="):
        AnswerFile(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or not os.path.exists("/dev/full"), reason="no full device")
def test_a_full_disk_is_a_user_error():
    with AnswerFile(Path("/dev/full")) as answers, pytest.raises(UserError, match="No space left"):
        answers.write({"id": 1})
