"""A table is as wide as it needs, but on a terminal."""

import re

from fivefold.tables import table_text

NAMES = [f"a_column_with_a_long_name_{number}" for number in range(12)]
ROWS = [dict.fromkeys(NAMES, "x" * 60)]


def test_names_and_cells_are_whole_when_nobody_watches():
    lines = table_text("title", ROWS).rstrip().splitlines()
    (heading,) = [line for line in lines if NAMES[0] in line]
    assert heading.split() == NAMES
    assert len(lines) == 5


def test_a_terminal_is_not_written_past(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = table_text("title", [{"a": "x" * 70, "b": "y" * 70}], is_terminal=True)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, bare.splitlines())) <= 80
    assert (bare.count("x"), bare.count("y")) == (70, 70)


def test_a_title_is_not_broken_to_the_width_of_the_columns():
    title = "a title of many words"
    assert table_text(title, [{"a": 1}]).splitlines()[0] == title
