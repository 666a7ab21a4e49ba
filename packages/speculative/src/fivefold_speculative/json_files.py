"""Reading JSON files that users give. Light: no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PICKLE, _ZIP = b"\x80", b"PK"


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a pickle is told from other bytes, and never opened.

    Raises:
        ValueError: it cannot be read, or is no JSON, with the reason in one line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    if data.startswith((_PICKLE, _ZIP)):
        raise ValueError(f"{path} is a pickle, a program that is never run, and no JSON")
    try:
        return json.loads(data.decode("utf-8-sig"))  # some editors begin a file with a mark
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error
