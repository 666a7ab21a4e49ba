"""Trees from files: what is read, and what is refused without being opened."""

import json
import pickle
import zipfile

import pytest
from fivefold import UserError
from fivefold_sequoia.config import SequoiaConfig
from fivefold_sequoia.importing import read_topology
from fivefold_speculative import AcceptanceVector, TreeTopology


def write(tmp_path, record):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(record))
    return path


def test_a_growth_map_of_the_reference_is_the_same_tree(tmp_path):
    """Its names, as JSON: successors, branches by level, depth, mask, size."""
    record = {
        "roots": [[0], [1, 2], [3, 4]],
        "branches": [[2], [2, 0]],
        "Successors": [[1, 2], [3, 4], [], [], []],
        "depth": [0, 1, 1, 2, 2],
        "size": 5,
    }
    assert read_topology(write(tmp_path, record)) == TreeTopology((-1, 0, 0, 1, 1))


def test_both_spellings_of_one_tree_are_read(tmp_path):
    record = {"parents": [-1, 0, 0, 1], "Successors": [[1, 2], [3], [], []]}
    assert read_topology(write(tmp_path, record)) == TreeTopology((-1, 0, 0, 1))


def test_nodes_in_any_order_are_sorted_breadth_first(tmp_path):
    record = {"parents": [-1, 3, 0, 0, 2]}
    assert read_topology(write(tmp_path, record)) == TreeTopology((-1, 0, 0, 1, 2))


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"parents": [-1, 0]}', encoding="utf-8-sig")
    assert read_topology(path) == TreeTopology((-1, 0))


@pytest.mark.parametrize(
    "record",
    [
        {"parents": [-1, 2, 1]},
        {"parents": [-1, 0, 7]},
        {"parents": [0, 0]},
        {"parents": [-1, -1, 0]},
        {"parents": []},
        {"parents": [-1]},
        {"parents": [-1, 0.5]},
        {"parents": "x"},
        {"Successors": [[1], [0]]},
        {"Successors": [[1, 1], []]},
        {"Successors": [[1], [], []]},
        {"Successors": [[5]]},
        {"Successors": 3},
        {"Successors": []},
        {"Successors": [[1], []], "size": 9},
        {"parents": [-1, 0, 0], "Successors": [[1], [2], []]},
        {"children": []},
        [1, 2],
    ],
)
def test_what_is_no_tree_is_refused_in_one_line(tmp_path, record):
    with pytest.raises(UserError, match="no tree") as refused:
        read_topology(write(tmp_path, record))
    assert "\n" not in str(refused.value)
    assert refused.value.setting == "drafting.topology"


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def pickled(tmp_path, zipped):
    path = tmp_path / "growmap.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("read", [read_topology, TreeTopology.read, AcceptanceVector.read])
def test_a_pickle_is_refused_by_name_and_never_opened(tmp_path, read, zipped):
    with pytest.raises(UserError, match="is a pickle") as refused:
        read(pickled(tmp_path, zipped))
    assert "JSON" in refused.value.remedy


def test_a_tree_that_no_pass_verifies_is_refused(tmp_path):
    path = str(write(tmp_path, {"parents": [-1, *[0] * 4096]}))
    with pytest.raises(UserError, match="4097 nodes") as refused:
        SequoiaConfig(topology=path)
    assert refused.value.setting == "drafting.topology"
    fits = str(write(tmp_path, {"parents": [-1, *[0] * 4095]}))
    assert SequoiaConfig(topology=fits).given_tree() == TreeTopology((-1, *[0] * 4095))
