"""What the planner remembers in the cache folder; without one it remembers nothing."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from fivefold import UserError
from fivefold.cache import cache_folder
from fivefold.files import write_atomically


def note_path(folder: str, named: object) -> Path | None:
    """Return the file of something that is named by all it depends on.

    Args:
        folder: the entry of the cache.
        named: what JSON can hold.

    Returns:
        The file; `None` where no cache folder can be written.
    """
    try:
        place = cache_folder() / folder
        place.mkdir(exist_ok=True)
    except (UserError, OSError):
        return None
    return place / f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]}.json"


def write_note(path: Path | None, record: object) -> None:
    """Write a note whole or not at all; a cache that cannot be written is no error."""
    if path is not None:
        with suppress(UserError):
            write_atomically(path, json.dumps(record, indent=1) + "\n")
