"""Acceptance vectors: what is refused, what is kept, and what a tree is expected to yield."""

import itertools
import json

import pytest
from fivefold import UserError
from fivefold_speculative import AcceptanceVector, TreeTopology

UMBRELLA = AcceptanceVector((0.65, 0.2, 0.1, 0.05))


@pytest.mark.parametrize(
    ("probs", "what"),
    [((0.7, 0.4), "sum to 1.100"), ((), "from 0 to 1"), ((1.2,), "from 0 to 1"), ((-0.1,), "0 to")],
)
def test_what_no_draft_can_have_is_refused(probs, what):
    with pytest.raises(UserError, match=what):
        AcceptanceVector(probs)


def test_a_file_is_read_as_it_was_written(tmp_path):
    vector = AcceptanceVector.of_counts([60, 20, 5], 100, {"target": "abc"})
    assert vector.probs == (0.6, 0.2, 0.05)
    assert vector.errors[0] == pytest.approx((0.6 * 0.4 / 100) ** 0.5)
    vector.write(tmp_path / "vector.json")
    assert AcceptanceVector.read(tmp_path / "vector.json") == vector


@pytest.mark.parametrize(
    "content", ["", "[]", json.dumps({"probs": "x"}), json.dumps({"probs": [0.9, 0.9]}), "\x80"]
)
def test_a_file_that_holds_no_vector_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "vector.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="no acceptance vector"):
        AcceptanceVector.read(tmp_path / "vector.json")


def test_expected_tokens_are_those_of_enumerated_walks():
    """All outcomes of trying children: at each node the k-th stands, or none."""
    topology = TreeTopology((-1, 0, 0, 0, 1, 1, 2, 4))
    outcomes = [*UMBRELLA.probs, 1 - sum(UMBRELLA.probs)]
    total = 0.0
    for draws in itertools.product(range(len(outcomes)), repeat=3):
        chance, node, tokens = 1.0, 0, 1
        for draw in draws:
            chance *= outcomes[draw]
            children = topology.children[node] if node is not None else range(0)
            node = children[draw] if draw < len(children) else None
            tokens += node is not None
        total += chance * tokens
    assert UMBRELLA.expected_tokens(topology) == pytest.approx(total)
