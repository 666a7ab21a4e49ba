"""The page on the Python API says what the code does."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "python.md"
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not PAGE.is_file(), reason="the package alone, without the pages"),
]


def blocks():
    text = PAGE.read_text("utf-8") if PAGE.is_file() else ""
    return re.findall(r"(?ms)^```python\n(.*?)^```", text)


@pytest.mark.parametrize("code", blocks())
def test_python_of_the_page_runs(code, capsys):
    exec(compile(code, str(PAGE), "exec"), {})
    assert "assert" in code or capsys.readouterr().out.strip()
