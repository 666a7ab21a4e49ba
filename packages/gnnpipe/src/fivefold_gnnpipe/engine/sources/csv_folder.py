"""A graph as a folder of CSV files: `edges.csv`, and `nodes.csv` with id, label and features."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from fivefold import UserError
from torch import Tensor

from .hashed_words import dense, hashed_words

_TEXT_WIDTH = 512
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_SPLITS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
_SPECIAL = ("id", "label", "text", "split")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return a folder's graph as arrays by key.

    `edges.csv` has two columns, with or without a heading; ids are numbers or text. `nodes.csv`
    has a heading: `id`, `label` (empty where unknown), either `text` (whose words are hashed) or
    feature columns of numbers, and optionally `split` (train, val or test).

    Raises:
        UserError: a missing file or column, an unknown id, a feature that is no number.
    """
    heading, rows = _table(folder / "nodes.csv")
    for needed in ("id", "label"):
        if needed not in heading:
            problem = f"there is no column `{needed}` among {', '.join(heading)}"
            remedy = "name it in the heading; columns are set apart by commas"
            raise _refused(folder / "nodes.csv", problem, remedy)
    again = [name for index, name in enumerate(heading) if name in heading[:index]]
    if again:
        problem = f"the column {again[0]!r} stands twice"
        raise _refused(folder / "nodes.csv", problem, "name each column once")
    column = {name: index for index, name in enumerate(heading)}
    ids = [row[column["id"]].strip() for row in rows]
    place = {name: index for index, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(name for index, name in enumerate(ids) if place[name] != index)
        raise _refused(folder / "nodes.csv", f"the id {twice!r} stands twice", "give each once")
    arrays = {"edge_index": _edges(folder / "edges.csv", place)}
    arrays["x"] = _features(folder / "nodes.csv", column, rows)
    arrays["y"], arrays["num_classes"] = _labels(
        folder / "nodes.csv", [row[column["label"]].strip() for row in rows]
    )
    if "split" in column:
        arrays |= _masks(folder / "nodes.csv", [row[column["split"]] for row in rows])
    return arrays


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    rows = list(_rows(path))
    if not rows:
        raise _refused(path, "the file is empty", "give at least one row")
    width = len(rows[0])
    for number, row in enumerate(rows[1:], 2):
        if len(row) != width:
            problem = f"row {number} has {len(row)} columns, and the heading {width}"
            raise _refused(path, problem, "give every row the same columns")
    return [name.strip().lower() for name in rows[0]], rows[1:]


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from (row for row in csv.reader(file) if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "a folder needs edges.csv and nodes.csv, in UTF-8"
        raise _refused(path, f"it cannot be read: {error}", remedy) from error


def _edges(path: Path, place: dict[str, int]) -> Tensor:
    ends = []
    for number, row in enumerate(_rows(path), 1):
        pair = [name.strip() for name in row[:2]]
        unknown = [name for name in pair if name not in place]
        if number == 1 and unknown == pair:
            continue  # a heading
        if unknown:
            problem = f"row {number} names {unknown[0]!r}, and nodes.csv does not"
            raise _refused(path, problem, "name ids of nodes.csv")
        if len(pair) < 2:
            remedy = "give two columns, set apart by a comma"
            raise _refused(path, f"row {number} is no pair", remedy)
        ends.append((place[pair[0]], place[pair[1]]))
    return torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T.contiguous()


def _features(path: Path, column: dict[str, int], rows: list[list[str]]) -> Tensor:
    if "text" in column:
        texts = [row[column["text"]] for row in rows]
        return dense(*hashed_words(texts, _TEXT_WIDTH), _TEXT_WIDTH)
    names = [name for name in column if name not in _SPECIAL]
    if not names:
        raise _refused(path, "there are no features", "add columns of numbers, or `text`")
    places = [column[name] for name in names]
    try:
        values = [[float(row[place]) for place in places] for row in rows]
    except ValueError as error:
        raise _refused(
            path, f"a feature is no number: {error}", "give numbers, or `text`"
        ) from error
    return torch.tensor(values, dtype=torch.float32).reshape(len(rows), len(names))


def _labels(path: Path, words: list[str]) -> tuple[Tensor, Tensor]:
    """Return class numbers in order of the labels: as numbers where all are, else as text."""
    known = sorted({word for word in words if word and word != "-1"})
    if all(_NUMBER.fullmatch(word) for word in known):
        odd = next((word for word in known if not re.fullmatch(r"\d{1,9}", word)), None)
        if odd is not None:
            remedy = "number classes from 0, or name them by words"
            raise _refused(path, f"the label {odd!r} is no class number", remedy)
        numbers = {word: int(word) for word in known}
    else:
        numbers = {word: index for index, word in enumerate(known)}
    y = torch.tensor([numbers.get(word, -1) for word in words])
    return y, torch.tensor(max(numbers.values(), default=0) + 1)


def _masks(path: Path, words: list[str]) -> dict[str, Tensor]:
    unknown = sorted({word for word in words if word and word.strip().lower() not in _SPLITS})
    if unknown:
        raise _refused(path, f"the split {unknown[0]!r} is none", "give train, val or test")
    place = torch.tensor([_SPLITS.get(word.strip().lower(), -1) for word in words])
    names = ("train_mask", "val_mask", "test_mask")
    return {name: place == index for index, name in enumerate(names)}


def _refused(path: Path, problem: str, remedy: str) -> UserError:
    problem = f"{path.name}: {problem}"
    return UserError(problem, setting="data.path", value=str(path.parent), remedy=remedy)
