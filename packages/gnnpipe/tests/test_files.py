"""A user's own graph: files and folders of CSV, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import DataConfig, load_graph
from fivefold_gnnpipe._words import Direction
from fivefold_gnnpipe.engine.graph import hashed_masks
from safetensors.numpy import save_file
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub

EDGES = np.array([[0, 1, 2, 2, 4, 0], [1, 2, 2, 1, 0, 1]])


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    held = {
        "edge_index": EDGES,
        "x": rng.standard_normal((5, 3)).astype(np.float32),
        "y": np.array([0, 1, 2, 0, -1]),
        "train_mask": np.array([1, 1, 0, 0, 1], dtype=bool),
        "val_mask": np.array([0, 0, 1, 0, 0], dtype=bool),
        "test_mask": np.array([0, 0, 0, 1, 0], dtype=bool),
    }
    held |= changes
    return {key: value for key, value in held.items() if value is not None}


def load_npz(tmp_path: Path, held: dict[str, np.ndarray], **settings: object):
    np.savez(tmp_path / "graph.npz", **held)
    path = str(tmp_path / "graph.npz")
    return load_graph(DataConfig(source="auto", path=path, **settings))


def test_npz_safetensors_and_pt_hold_the_same_graph(tmp_path):
    held = arrays()
    first = load_npz(tmp_path, held)
    save_file(held, tmp_path / "graph.safetensors")
    torch.save({k: torch.from_numpy(v) for k, v in held.items()}, tmp_path / "graph.pt")
    for name in ("graph.safetensors", "graph.pt"):
        again = load_graph(DataConfig(source="auto", path=str(tmp_path / name)))
        assert again.digest == first.digest
    assert {tuple(sorted(p)) for p in first.edge_index.T.tolist()} == {(0, 1), (1, 2), (0, 4)}


@pytest.mark.parametrize(
    ("direction", "pairs"),
    [
        (Direction.IN, {(0, 1), (1, 2), (2, 1), (4, 0)}),
        (Direction.OUT, {(1, 0), (2, 1), (1, 2), (0, 4)}),
    ],
)
def test_directed_edges_keep_their_direction(tmp_path, direction, pairs):
    graph = load_npz(tmp_path, arrays(), direction=direction)
    assert {tuple(p) for p in graph.edge_index.T.tolist()} == pairs


def test_edge_weights_follow_their_edges(tmp_path):
    weights = np.array([1.0, 2.0, 9.0, 3.0, 4.0, 5.0], dtype=np.float32)
    graph = load_npz(tmp_path, arrays(edge_weight=weights), direction=Direction.IN)
    found = dict(
        zip(map(tuple, graph.edge_index.T.tolist()), graph.edge_weight.tolist(), strict=True)
    )
    assert found == {(0, 1): 1.0, (1, 2): 2.0, (2, 1): 3.0, (4, 0): 4.0}


def test_features_as_csr_are_the_dense_ones(tmp_path):
    held = arrays()
    dense = np.where(held["x"] > 0, held["x"], 0).astype(np.float32)
    columns = [np.flatnonzero(row) for row in dense]
    parts = {
        "x": None,
        "x_indptr": np.cumsum([0, *map(len, columns)]),
        "x_indices": np.concatenate(columns),
        "x_data": np.concatenate([row[c] for row, c in zip(dense, columns, strict=True)]),
    }
    graph = load_npz(tmp_path, arrays(**parts))
    assert torch.equal(
        graph.x[:, : graph.num_features], torch.from_numpy(dense)[:, : graph.num_features]
    )


def test_missing_masks_are_hashed_from_the_vertex_number(tmp_path):
    none = dict.fromkeys(("train_mask", "val_mask", "test_mask"))
    many = {"x": np.eye(500, dtype=np.float32), "y": np.zeros(500, dtype=int)}
    graph = load_npz(tmp_path, arrays(**none, **many))
    expected = hashed_masks([str(i).encode() for i in range(500)])
    assert torch.equal(graph.train_mask, expected[0])
    assert 0.5 < float(graph.train_mask.float().mean()) < 0.7


def test_two_axes_of_labels_are_several_labels_a_vertex(tmp_path):
    y = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0]])
    graph = load_npz(tmp_path, arrays(y=y))
    assert graph.is_multilabel
    assert graph.num_classes == 2


NOBODY = np.zeros(0, dtype=int)
CSR = ("x_indptr", "x_indices", "x_data")
WRONG = {
    "outside": ({"edge_index": np.array([[0, 9], [1, 2]])}, "vertices 0 to 9.*0 to 4"),
    "negative": ({"edge_index": np.array([[0, -1], [1, 2]])}, "vertices -1 to 2"),
    "nan": ({"x": np.full((5, 3), np.nan, dtype=np.float32)}, "NaN"),
    "lengths": ({"y": np.array([0, 1])}, "5 rows of x and 2 labels"),
    "overlap": ({"val_mask": np.array([1, 0, 0, 0, 0], dtype=bool)}, "1 vertices stand in more"),
    "fractions": ({"y": np.array([0.5, 1, 2, 0, 1])}, "labels are not whole"),
    "negative-label": ({"y": np.array([0, -3, 2, 0, 1])}, "label -3 is negative"),
    "huge-ids": ({"edge_index": np.array([[0.0, 2.0**60], [1, 2]])}, "2\\^53"),
    "half-ids": ({"edge_index": np.array([[0.5, 1.0], [1, 2]])}, "edge ids are not whole"),
    "no-edges": ({"edge_index": None}, "there are no edges"),
    "no-features": ({"x": None}, "there are no features"),
    "no-labels": ({"y": None}, "there are no labels"),
    "shape": ({"edge_index": np.zeros((3, 4), dtype=int)}, "edge_index has shape \\[3, 4\\]"),
    "unlabelled": ({"y": np.full(5, -1)}, "no training vertex has a label"),
    "no-training": ({"train_mask": np.zeros(5, dtype=bool)}, "no training vertex has a label"),
    "one-mask": ({"val_mask": None}, "train_mask, test_mask without val_mask"),
    "mask-length": ({"val_mask": np.zeros(4, dtype=bool)}, "val_mask has shape"),
    "weights": ({"edge_weight": np.ones(2, dtype=np.float32)}, "2 weights for 6 edges"),
    "classes": ({"num_classes": np.array(2)}, "label 2 is outside the 2 classes"),
    "not-binary": ({"y": np.full((5, 2), 3)}, "must be 0 or 1"),
    "empty": (
        {k: np.zeros((0, *v.shape[1:]), v.dtype) for k, v in arrays().items() if k != "edge_index"},
        "graph has 0 to -1|no vertices",
    ),
    "label-axes": ({"y": np.zeros((5, 2, 2))}, r"y has shape \[5, 2, 2\]"),
    "no-label-columns": ({"y": np.zeros((5, 0))}, r"y has shape \[5, 0\]"),
    "one-label": ({"y": np.array(3)}, "5 rows of x and 1 labels"),
    "endless-label": ({"y": np.array([0, np.inf, 2, 0, 1])}, "labels are not whole"),
    "huge-label": ({"y": np.array([0, 10**10, 2, 0, 1])}, "10000000001 classes of 5 vertices"),
    "no-columns": ({"x": np.zeros((5, 0))}, "x has no columns"),
    "boolean-ids": ({"edge_index": np.zeros((2, 2), dtype=bool)}, "true and false"),
    "mask-numbers": ({"train_mask": np.array([0, 1, 2, 0, 0])}, "more than true and false"),
    "two-counts": ({"num_classes": np.array([3, 4])}, "num_classes is no whole number"),
    "half-count": ({"num_classes": np.array(2.5)}, "num_classes is no whole number"),
    **{
        f"csr-{name}": ({"x": None, **dict(zip(CSR, parts, strict=True))}, said)
        for name, parts, said in (
            ("empty", (NOBODY, NOBODY, []), "do not go together"),
            ("begin", ([1, 1, 1, 1, 1, 1], NOBODY, []), "do not go together"),
            ("axes", (np.zeros((2, 2), dtype=int), [0], [1.0]), "do not go together"),
            ("fractions", ([0, 0, 0, 0, 0, 1], [0.5], [1.0]), "holds fractions"),
            ("count", ([0, 0, 0, 0, 0, 2], [0], [1.0]), "do not go together"),
        )
    },
    "csr-width": (
        {
            "x": None,
            **dict(zip(CSR, ([0, 1, 1, 1, 1, 1], [7], [1.0]), strict=True)),
            "x_width": 5,
        },
        "names column 7 of 5",
    ),
    "csr": (
        {
            "x": None,
            "x_indptr": np.array([0, 9]),
            "x_indices": np.array([0]),
            "x_data": np.array([1.0]),
        },
        "do not go together",
    ),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_senseless_arrays_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=rf"(?s){said}.*data.path"):
        load_npz(tmp_path, arrays(**changes))


def test_pickled_data_is_refused_with_the_conversion(tmp_path):
    torch.save(Data(x=torch.ones(2, 1)), tmp_path / "data.pt")
    with pytest.raises(UserError, match=r"pickled object.*torch.save\(data.to_dict"):
        load_graph(DataConfig(source="auto", path=str(tmp_path / "data.pt")))
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(UserError, match=r"pickled object.*to_dict"):
        load_graph(DataConfig(source="auto", path=str(tmp_path / "data.pkl")))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="npz cannot be read safely"):
        load_graph(DataConfig(source="auto", path=str(tmp_path / "objects.npz")))


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "graph.npz"
    np.savez_compressed(path, **arrays())
    held = bytearray(path.read_bytes())
    if damage == "cut":
        held = held[: len(held) // 2]
    else:
        held[60:90] = bytes(30)
    path.write_bytes(held)
    with pytest.raises(UserError, match=r"damaged|cannot be read safely"):
        load_graph(DataConfig(source="auto", path=str(path)))


def test_conversion_that_the_message_shows_works(tmp_path):
    club = KarateClub()[0]
    club.val_mask, club.test_mask = ~club.train_mask, torch.zeros(34, dtype=torch.bool)
    torch.save(club.to_dict(), tmp_path / "graph.pt")
    graph = load_graph(DataConfig(source="auto", path=str(tmp_path / "graph.pt")))
    assert (graph.num_nodes, graph.num_edges, graph.num_classes) == (34, 156, 4)


def test_sparse_tensors_of_a_saved_dictionary_are_the_dense_ones(tmp_path):
    club = KarateClub()[0].to_dict()
    x = torch.rand(34, 5).round()
    for name, value in (("dense", x), ("sparse", x.to_sparse())):
        kept = {"x": value, "edge_index": club["edge_index"], "y": club["y"]}
        torch.save(kept, tmp_path / f"{name}.pt")
    dense, sparse = (load_graph(path=str(tmp_path / f"{name}.pt")) for name in ("dense", "sparse"))
    assert sparse.digest == dense.digest


def test_unknown_and_absent_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello there, this is text")
    with pytest.raises(UserError, match="no graph file that is known"):
        load_graph(DataConfig(source="auto", path=str(tmp_path / "notes.txt")))
    with pytest.raises(UserError, match="no such file"):
        load_graph(DataConfig(source="auto", path=str(tmp_path / "absent.npz")))


# ----------------------------------------------------------------------------------- CSV folders


def folder(tmp_path: Path, nodes: str, edges: str) -> DataConfig:
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text(edges)
    return DataConfig(source="auto", path=str(tmp_path))


NODES = "id,label,width,height\nann,red,1,2\nbob,blue,3,4\ncy,,5,6\ndi,red,7,8\n"


@pytest.mark.parametrize("heading", ["", "source,target\n"])
def test_csv_folder_with_text_ids(tmp_path, heading):
    nodes = NODES.replace("\n", ",train\n").replace("height,train", "height,split")
    graph = load_graph(folder(tmp_path, nodes, heading + "ann,bob\nbob,cy\n"))
    assert torch.equal(graph.x, torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]]))
    assert graph.y.tolist() == [1, 0, -1, 1]  # blue, red
    assert {tuple(sorted(p)) for p in graph.edge_index.T.tolist()} == {(0, 1), (1, 2)}
    assert bool(graph.train_mask.all())


def test_csv_text_column_is_hashed(tmp_path):
    nodes = "id,label,text,split\n5,0,one two,train\n7,1,two,val\n9,1,,test\n"
    graph = load_graph(folder(tmp_path, nodes, "5,7\n"))
    assert graph.num_features == 512
    assert torch.allclose(graph.x.square().sum(1), torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        ("name,label,a\nx,0,1\n", "", "no column `id`"),
        ("id,a\nx,0\n", "", "no column `label`"),
        ("id,label\nx,0\n", "", "no features"),
        ("id,label,a\nx,0,tall\n", "", "a feature is no number"),
        ("id,label,a\nx,0,1\nx,0,1\n", "", "'x' stands twice"),
        ("id,label,a\nx,0,1\n", "x,x\nx,y\n", "row 2 names 'y'"),
        ("id,label,a\nx,0\n", "", "row 2 has 2 columns"),
        ("id,label,a\nx,0,1\n", "x,y\nx,x\n", "row 1 names 'y'"),
        ("id,label,a\nx,0,1\n", "x\n", "row 1 is no pair"),
        ("id;label;a\nx;0;1\n", "", "no column `id` among id;label;a"),
        ("id,label,a,a\nx,0,1,2\n", "", "the column 'a' stands twice"),
        ("id,label,a\nx,0,1\ny,-5,1\n", "", "the label '-5' is no class number"),
        ("id,label,a\nx,0,1\ny,1.0,1\n", "", "the label '1.0' is no class number"),
        ("id,label,a\nx,99999999999999999999,1\n", "", "is no class number"),
        ("id,label,a,split\nx,0,1,maybe\n", "", "the split 'maybe'"),
        ("", "", "the file is empty"),
    ],
)
def test_csv_folder_that_makes_no_sense_is_refused(tmp_path, nodes, edges, said):
    with pytest.raises(UserError, match=rf"{said}.*data.path"):
        load_graph(folder(tmp_path, nodes, edges))
