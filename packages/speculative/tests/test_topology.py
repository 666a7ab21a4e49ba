"""The shape of static trees."""

from pathlib import Path

import fivefold_speculative
import pytest
from fivefold import UserError
from fivefold_speculative import TreeTopology
from hypothesis import given
from hypothesis import strategies as st

TOPOLOGIES = Path(fivefold_speculative.__file__).with_name("topologies")
WIDTHS = st.lists(st.integers(1, 3), max_size=4)


@given(WIDTHS)
def test_an_expansion_has_as_many_nodes_as_the_formula_says(widths):
    nodes, level = 1, 1
    for width in widths:
        level *= width
        nodes += level
    topology = TreeTopology.expansion(widths)
    assert topology.num_nodes == nodes
    assert topology.num_levels == len(widths) + 1
    assert topology.widths == (*widths, 0)


@given(WIDTHS)
def test_everything_follows_from_the_parents(widths):
    topology = TreeTopology.expansion(widths)
    for node, parent in enumerate(topology.parents):
        if parent >= 0:
            assert topology.depths[node] == topology.depths[parent] + 1
            assert topology.children[parent][topology.child_index[node]] == node
    assert [n for level in topology.levels for n in level] == list(range(topology.num_nodes))
    assert set(topology.inner) == set(topology.parents) - {-1}


def test_a_chain_is_the_expansion_of_ones():
    assert TreeTopology.chain(3).parents == (-1, 0, 1, 2)
    assert TreeTopology.chain(3).is_chain
    assert not TreeTopology.expansion([2]).is_chain
    assert TreeTopology.root().num_levels == 1


def test_a_ragged_tree_knows_its_levels():
    topology = TreeTopology((-1, 0, 0, 0, 1, 1, 3, 4))
    assert topology.widths == (3, 2, 1, 0)
    assert topology.levels == (range(1), range(1, 4), range(4, 7), range(7, 8))
    assert topology.inner == (0, 1, 3, 4)
    assert topology.children[3] == range(6, 7)


def test_a_topology_survives_its_file(tmp_path):
    topology = TreeTopology((-1, 0, 0, 0, 1, 1, 3, 4))
    topology.write(tmp_path / "tree.json")
    assert TreeTopology.read(tmp_path / "tree.json") == topology


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ((), "node 0"),
        ((0,), "node 0"),
        ((-1, 1), "node 1 has parent 1"),
        ((-1, -1), "node 1 has parent -1"),
        ((-1, 0, 1, 0), "breadth first"),
    ],
)
def test_parents_that_are_no_tree_are_refused(parents, words):
    with pytest.raises(UserError, match=words):
        TreeTopology(parents)


@pytest.mark.parametrize("text", ["", "[1]", '{"parents": [-1, true]}', '{"parents": 3}', "{"])
def test_a_file_without_a_tree_is_refused(tmp_path, text):
    (tmp_path / "tree.json").write_text(text)
    with pytest.raises(UserError, match=r"drafting\.topology"):
        TreeTopology.read(tmp_path / "tree.json")


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"no such tree \(drafting\.topology=tree\.json\)"):
        TreeTopology.find("tree.json")


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_tree_is_found_by_its_name(path):
    assert TreeTopology.find(path.stem) == TreeTopology.read(path)
    assert TreeTopology.find(path.stem).num_nodes <= 32


@pytest.mark.parametrize("widths", [[0], [2, -1], [100, 100]])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(UserError, match=r"drafting\.widths"):
        TreeTopology.expansion(widths)
