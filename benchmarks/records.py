"""Completing a record part by part: what an earlier run left of the other parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fivefold.result import Result


def keep(result: Result, path: Path, is_anew: Callable[[Mapping[str, Any]], bool]) -> None:
    """Begin with what a record holds, if there is one: figures, rows, and settings of other parts.

    Args:
        result: takes them.
        path: of the record.
        is_anew: says of a row that it will be measured again; such are left out.
    """
    if not path.exists():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    result.rows += [row for row in record["rows"] if not is_anew(row)]
    result.figures |= record["figures"]
    result.environment = record["environment"] | result.environment
