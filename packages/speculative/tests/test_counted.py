"""Numbers with their noun."""

import pytest
from fivefold_speculative._counted import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (21, "21 tokens")]
)
def test_only_one_is_singular(number, said):
    assert counted(number, "token") == said
