"""Acceptance by depth and rank: what a tree is expected to yield, against walks on rank texts."""

import random

import pytest
from fivefold import UserError
from fivefold_speculative import AcceptanceVector, RankedAcceptance, TreeTopology

PLAIN = (0.5, 0.2, 0.1)
ROWS = (
    (0.7, 0.1, 0.05),
    (0.5, 0.2, 0.1),
    (0.3, 0.3, 0.2),
    (0.3, 0.3, 0.2),
    (0.2, 0.2, 0.2),
)
TREE = TreeTopology((-1, 0, 0, 1, 1, 1, 2, 3, 7))


def ranked(rows=ROWS, depths=1):
    return RankedAcceptance((rows,) * depths)


@pytest.mark.parametrize("tree", [TREE, TreeTopology.chain(4), TreeTopology.expansion([3, 2])])
def test_equal_rows_give_the_plain_vectors_yield(tree):
    same = RankedAcceptance(((PLAIN,) * 5,) * 3)
    assert same.expected_tokens(tree) == pytest.approx(
        AcceptanceVector(PLAIN).expected_tokens(tree), abs=1e-12
    )


@pytest.mark.parametrize("tree", [TREE, TreeTopology.chain(4), TreeTopology.expansion([2, 1, 1])])
def test_yield_is_that_of_walks_over_a_text_of_ranks(tree):
    """A text is a Markov chain of ranks; steps walk the tree along it, one after another."""
    acceptance, rng = ranked(), random.Random(5)
    text = [0]
    for _ in range(200_000):
        row = acceptance.row(0, acceptance.class_of(text[-1]))
        coin, rank = rng.random(), -1
        for place, p in enumerate(row):
            if coin < p:
                rank = place
                break
            coin -= p
        text.append(rank)
    place, steps = 1, 0
    while place < len(text) - 10:
        node = 0
        while 0 <= text[place] < len(tree.children[node]):
            node = tree.children[node][text[place]]
            place += 1
        place += 1
        steps += 1
    assert acceptance.expected_tokens(tree) == pytest.approx(place / steps, rel=0.01)


def test_a_file_keeps_it(tmp_path):
    vector = AcceptanceVector(PLAIN, ranked=ranked(depths=2))
    vector.write(tmp_path / "vector.json")
    assert AcceptanceVector.read(tmp_path / "vector.json") == vector
    assert vector.plain() == AcceptanceVector(PLAIN)


@pytest.mark.parametrize(
    "record", ["[]", '{"probs": [[[0.5]]], "starts": [0]}', '{"probs": 3, "starts": [0]}']
)
def test_a_file_with_other_rows_is_refused(tmp_path, record):
    (tmp_path / "vector.json").write_text(f'{{"probs": [0.5], "ranked": {record}}}')
    with pytest.raises(UserError, match="no acceptance by depth and rank"):
        AcceptanceVector.read(tmp_path / "vector.json")


@pytest.mark.parametrize("row", [(0.7, 0.4), (1.2, 0.0), (-0.1, 0.0)])
def test_rows_that_no_draft_can_have_are_refused(row):
    with pytest.raises(ValueError, match="row"):
        RankedAcceptance((((0.1, 0.1), row),), starts=(0,))
