"""Sizes as people write them (imports no torch)."""

import re

UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*")
_BY_LOWER = {name.lower(): factor for name, factor in UNITS.items()}


def parse_size(text: str) -> int:
    """Return a size such as `200MiB`, `1.5 GB` or `4096 B` in bytes.

    Raises:
        ValueError: it is no number with a unit, or less than a byte.
    """
    found = _SIZE.fullmatch(text)
    factor = _BY_LOWER.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"no size; write a number and one of {', '.join(UNITS)}")
    size = int(float(found[1]) * factor)
    if size < 1:
        raise ValueError("a budget of nothing")
    return size


def in_units(size: int) -> str:
    """Return bytes as a budget is written: `200.0MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.1f}{unit}"
    return f"{size}B"
