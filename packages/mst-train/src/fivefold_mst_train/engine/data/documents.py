"""Documents: text or conversations out of a folder, a file, a dataset's name, or the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from fivefold import UserError

from ..config import DataConfig

AUSTEN = "austen"
TEXT, LINES, TABLES = (".txt", ".md"), (".jsonl", ".ndjson"), (".parquet", ".csv")


@dataclass(frozen=True)
class Document:
    """One text, or one conversation."""

    place: str
    """Where it stands, for errors: a file, a line, a row."""
    text: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    """Messages of `role` and `content`; empty: the document is plain text."""


def documents(config: DataConfig, name: str = "", setting: str = "data.name") -> list[Document]:
    """Return the documents that the settings name, in order.

    Args:
        config: the settings.
        name: in place of `config.name`.
        setting: what names it, for errors.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    is_local = config.name == AUSTEN or Path(config.name).expanduser().exists()
    if config.subset and is_local and not name:
        raise UserError(
            f"only a dataset on the hub has one, and {config.name} is none",
            setting="data.subset",
            value=config.subset,
            remedy="leave it out, or name the dataset by data.name",
        )
    name = name or config.name
    found = _found(config, name, setting)
    kept = list(islice(found, config.max_documents or None))
    if not kept:
        raise UserError(
            "there is no text in it",
            setting=setting,
            value=name,
            remedy="give a folder of .txt, .md or .jsonl files, a file, or a dataset's name",
        )
    return kept


def _found(config: DataConfig, name: str, setting: str) -> Iterator[Document]:
    if name == AUSTEN:  # a folder of that name is ./austen
        return _austen()
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
            return _rows(lambda library: library.load_from_disk(str(path)), config, name, setting)
        return _folder(path, config, setting)
    if path.is_file():
        return _file(path, config, setting)
    if name.startswith((".", "~", "/")) or path.suffix in (*TEXT, *LINES, *TABLES):
        raise UserError(
            "there is no such file or folder",
            setting=setting,
            value=name,
            remedy="give an existing one, a dataset's name, or data=austen",
        )
    options = {"name": config.subset or None, "split": config.split}
    return _rows(lambda library: library.load_dataset(name, **options), config, name, setting)


def _austen() -> Iterator[Document]:
    """Read the six novels that come with the package."""
    folder = files(__package__) / AUSTEN
    novels = [entry for entry in folder.iterdir() if entry.name.endswith(".txt")]
    for novel in sorted(novels, key=lambda entry: entry.name):
        yield Document(f"{AUSTEN}/{novel.name}", novel.read_text("utf-8"))


def _folder(folder: Path, config: DataConfig, setting: str) -> Iterator[Document]:
    """Read every file of text and lines in a folder and below it, by name."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix in (*TEXT, *LINES, *TABLES):
            yield from _file(path, config, setting)


def _file(path: Path, config: DataConfig, setting: str) -> Iterator[Document]:
    if path.suffix in LINES:
        return _lines(path, config, setting)
    if path.suffix in TABLES:
        kind = path.suffix.removeprefix(".")
        options = {"data_files": str(path), "split": "train"}
        return _rows(lambda library: library.load_dataset(kind, **options), config, path, setting)
    text = _read(path, setting)
    return iter([Document(str(path), text)] if text.strip() else [])


def _lines(path: Path, config: DataConfig, setting: str) -> Iterator[Document]:
    """Read a record a line."""
    for number, line in enumerate(_read(path, setting).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"line {number} of {path.name} is no JSON: {error.msg}",
                setting=setting,
                value=path,
                remedy='each line is a record such as {"messages": […]} or {"text": "…"}',
            ) from error
        yield _document(record, place, config, setting)


def _rows(
    load: Callable[[Any], Any], config: DataConfig, name: object, setting: str
) -> Iterator[Document]:
    """Read the rows of a dataset with the library `datasets`."""
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise UserError(
            "reading this needs the package datasets",
            setting=setting,
            value=name,
            remedy="pip install datasets, or give a folder of text or a .jsonl file",
        ) from error
    try:
        with _without_bars(datasets):
            loaded = load(datasets)
    except Exception as error:  # the many errors of a library and a network, each made one line
        raise _unreadable(error, name, setting) from error
    if isinstance(loaded, datasets.DatasetDict):
        if config.split not in loaded:
            raise UserError(
                "this dataset has no such split",
                setting="data.split",
                value=config.split,
                remedy=f"choose one of {', '.join(sorted(loaded))}",
            )
        loaded = loaded[config.split]
    for number, record in enumerate(loaded):
        found = _document(record, f"{name}, row {number}", config, setting)
        if found.messages or found.text.strip():  # corpora mark paragraphs by empty rows
            yield found


class _without_bars:  # noqa: N801 - used as a function
    """Keep the bars of `datasets` off the terminal."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __enter__(self) -> None:
        self.library.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        self.library.enable_progress_bars()


def _document(record: Any, place: str, config: DataConfig, setting: str) -> Document:
    """Return a record as a document.

    Raises:
        UserError: it holds neither a conversation nor text.
    """
    fields = record if isinstance(record, Mapping) else {}
    messages, text = fields.get(config.messages), fields.get(config.text)
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        if all(
            isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in messages
        ):
            return Document(place, messages=messages)
    elif isinstance(text, str):
        return Document(place, text=text)
    names = ", ".join(map(str, fields)) or type(record).__name__
    raise UserError(
        f"{place} holds neither a conversation ({config.messages}) nor text ({config.text}); "
        f"it has: {names}",
        setting=setting,
        value=config.name,
        remedy="name the fields by data.messages= or data.text=",
    )


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"{path.name} cannot be read ({reason})",
            setting=setting,
            value=path,
            remedy="mend it, or take it out of the folder",
        ) from error


def _unreadable(error: Exception, name: object, setting: str) -> UserError:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    lowered = text.lower()
    if "connect" in lowered or "offline" in lowered or "couldn't reach" in lowered:
        problem = "the hub cannot be reached and this dataset is not in its local cache"
        remedy = "load it once while online, or give a local folder or file, or data=austen"
    elif "config name is missing" in lowered or "builderconfig" in lowered:
        problem, setting = f"which of its configurations? ({text[:160]})", "data.subset"
        remedy = "name one by data.subset="
    elif "split" in lowered:
        problem, setting, remedy = text[:160], "data.split", "name one by data.split="
    else:
        problem = f"it cannot be read ({type(error).__name__}: {text[:160]})"
        remedy = "check its name; a local folder, file, or data=austen needs no network"
    return UserError(problem, setting=setting, value=name, remedy=remedy)
