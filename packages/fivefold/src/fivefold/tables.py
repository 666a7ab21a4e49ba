"""Tables for the screen."""

import io
import math
from collections.abc import Mapping, Sequence

from .errors import shown

_WIDTH_OFF_SCREEN = 100_000
"""Wider than any table: what is read by a program, or paged, is not to be broken."""
_NOTHING = "-"


def table_text(
    title: str,
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str] | None = None,
    *,
    is_terminal: bool = False,
) -> str:
    """Return a table as text: within the terminal's width, or else as wide as it needs.

    Args:
        title: the heading.
        rows: one mapping a line.
        columns: which columns, in which order; all when not given.
        is_terminal: whether it is for a terminal: colours, and the terminal's width.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        is_number = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(name))) for name in names))
    sheet = io.StringIO()
    width = None if is_terminal else _WIDTH_OFF_SCREEN
    console = Console(file=sheet, force_terminal=is_terminal, width=width)
    if title:  # not the table's own, which would be broken to the width of its columns
        console.print(Text(title, style="table.title"))
    console.print(table)
    lines = (line.rstrip() for line in sheet.getvalue().strip("\n").splitlines())
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """Return a value as a table shows it: numbers with four digits, nothing as a dash."""
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else _NOTHING
    return shown(value)
