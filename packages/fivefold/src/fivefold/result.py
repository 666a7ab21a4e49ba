"""`result.json`: what a run leaves for scripts to read."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import write_atomically
from .version import __version__

SCHEMA = 1
"""The schema's number; it changes when a key changes its meaning."""

FILE_NAME = "result.json"
_LIBRARIES = ("torch", "transformers", "numpy", "hydra-core")


@dataclass
class Result:
    """The record of a run, in the shape of `result.json`."""

    task: str
    """The task's name."""
    status: str = "ok"
    """`ok`, `partial` or `error`."""
    error: dict[str, str] | None = None
    """What ended the run, or spoilt a part of it."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """Numbers by their documented name."""
    rows: list[dict[str, object]] = field(default_factory=list)
    """One a prompt, method or configuration."""
    environment: dict[str, object] = field(default_factory=lambda: environment())
    """What it ran on."""
    partial_error: UserError | None = None
    """The first problem that a task reported and went on from."""

    def as_json(self) -> str:
        """Return the file's text: strict JSON, numbers that are none as null."""
        record = {
            "schema": SCHEMA,
            "task": self.task,
            "status": self.status,
            "error": self.error,
            "figures": self.figures,
            "rows": self.rows,
            "environment": self.environment,
        }
        return "{\n" + ",\n".join(f" {_text(k)}: {_block(v)}" for k, v in record.items()) + "\n}\n"

    def write(self, folder: Path) -> None:
        """Write `result.json` into a run folder: to a temporary name, then renamed.

        Raises:
            UserError: when the folder cannot be written to.
        """
        write_atomically(folder / FILE_NAME, self.as_json(), "hydra.run.dir")


def environment() -> dict[str, object]:
    """Return what a result depends on, without importing any of it."""
    found: dict[str, object] = {
        "fivefold": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": _usable_cpus(),
        "threads": None,  # what loads a library with threads of its own says how many
    }
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def _block(value: object) -> str:
    """Return a top-level value as JSON, one row or figure a line."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {_text(row)}" for row in value) + "\n ]"
    if isinstance(value, dict) and value:
        return (
            "{\n" + ",\n".join(f"  {_text(str(k))}: {_text(v)}" for k, v in value.items()) + "\n }"
        )
    return _text(value)


def _text(value: object) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plain(value: Any) -> Any:
    """Return a value as JSON has it: tensors and arrays as numbers, paths and enums as text."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
