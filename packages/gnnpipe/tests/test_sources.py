"""Graphs from Debian's lists, files, folders, generators and libraries, and what is refused."""

from __future__ import annotations

import gzip
import lzma
import pickle
from dataclasses import replace
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import DataConfig, load_graph
from fivefold_gnnpipe._words import DebianSplit, Direction
from fivefold_gnnpipe.engine.graph import hashed_masks
from fivefold_gnnpipe.engine.sources import debian
from safetensors.numpy import save_file
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub

STANZAS = """\
Package: alpha
Version: 1
Filename: pool/a.deb
Section: contrib/net
Depends: beta (>= 2) | gamma:any, mail-transport
Recommends: alpha, nothing-such
Suggests: beta
Description: fast Mail reader
 Section: not-a-field
 more words that count for nothing

Package: beta
Filename: pool/b.deb
Source: alpha (1.2)
Section: net
Provides: mail-transport
Enhances: delta
Description: mail mail transport

Package: gamma
Filename: pool/c.deb
Section: doc
Provides: mail-transport (= 3)
Description: a 1 b

Package: gamma
Filename: pool/second.deb
Section: games
Description: the second stanza of a name

Package: delta
Section: net
Description: installed only, without Filename

Package: Beta2
Filename: pool/e.deb
Section: doc
Description: words
"""


def packages_file(tmp_path: Path, text: str | bytes = STANZAS) -> DataConfig:
    raw = text.encode() if isinstance(text, str) else text
    (tmp_path / "Packages").write_bytes(raw)
    return DataConfig(source="debian", path=str(tmp_path / "Packages"), min_class=1, features=64)


def many_stanzas(count: int = 400) -> str:
    return "\n".join(
        f"Package: p{i:03}\nFilename: x\nSource: s{i // 3}\nSection: {'ab'[i % 2]}\n"
        f"Depends: p{(i * 7) % count:03}, p{(i * 13 + 1) % count:03}\n"
        f"Description: word{i % 9} of {i}\n"
        for i in range(count)
    )


def test_packages_become_vertices_edges_labels_and_words():
    read = debian.parse_packages(STANZAS)
    assert read.names == ["Beta2", "alpha", "beta", "gamma"]  # by bytes; delta has no Filename
    assert read.sections == ["doc", "net", "net", "doc"]
    assert read.sources == ["Beta2", "alpha", "alpha", "gamma"]
    assert read.provides == {"mail-transport": ["beta", "gamma"]}
    assert read.relations[1]["Depends"] == ["beta", "gamma", "mail-transport"]
    assert read.descriptions[1] == "fast Mail reader"


def test_edges_resolve_alternatives_and_providers_without_loops(tmp_path):
    config = packages_file(tmp_path)
    graph = load_graph(config)
    pairs = {tuple(sorted(pair)) for pair in graph.edge_index.T.tolist()}
    assert pairs == {(1, 2), (1, 3)}  # alpha–beta, alpha–gamma; names that nobody has are dropped
    assert graph.facts["unresolved_names"] == 2  # nothing-such, delta
    assert graph.facts["dependencies"] == 2
    out = load_graph(replace(config, direction=Direction.OUT))
    assert {tuple(pair) for pair in out.edge_index.T.tolist()} == {(2, 1), (3, 1)}


def test_features_are_hashed_words_of_the_first_line(tmp_path):
    graph = load_graph(packages_file(tmp_path))
    assert torch.allclose(graph.x.square().sum(1)[1], torch.tensor(1.0))  # three distinct words
    assert int((graph.x[2] > 0).sum()) == 2  # mail, transport: a set
    assert int((graph.x[3] > 0).sum()) == 0  # `a 1 b` has no word of two letters
    shared = (graph.x[1] > 0) & (graph.x[2] > 0)
    assert int(shared.sum()) >= 1  # mail


def test_split_keeps_one_source_on_one_side(tmp_path):
    graph = load_graph(packages_file(tmp_path, many_stanzas()))
    place = (graph.val_mask.int() + 2 * graph.test_mask.int()).reshape(-1)[:399].reshape(133, 3)
    assert bool((place == place[:, :1]).all())
    config = replace(packages_file(tmp_path, many_stanzas()), split=DebianSplit.BINARY)
    leaky = load_graph(config)
    place = (leaky.val_mask.int() + 2 * leaky.test_mask.int())[:399].reshape(133, 3)
    assert not bool((place == place[:, :1]).all())


def test_excerpt_of_400_packages_has_its_golden_counts(tmp_path):
    graph = load_graph(packages_file(tmp_path, many_stanzas()))
    assert (graph.num_nodes, graph.num_classes) == (400, 2)
    wanted = {
        tuple(sorted((i, j)))
        for i in range(400)
        for j in ((i * 7) % 400, (i * 13 + 1) % 400)
        if i != j
    }
    assert graph.num_edges == 2 * len(wanted)
    assert load_graph(packages_file(tmp_path, many_stanzas())).digest == graph.digest


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lz4.frame.compress])
def test_packed_lists_are_read_as_the_plain_one(tmp_path, pack):
    plain = load_graph(packages_file(tmp_path)).digest
    assert load_graph(packages_file(tmp_path, pack(STANZAS.encode()))).digest == plain


def test_rare_sections_stay_in_the_graph_unlabelled(tmp_path):
    text = many_stanzas() + "\nPackage: zz\nFilename: x\nSection: rare\nDescription: one\n"
    graph = load_graph(replace(packages_file(tmp_path, text), min_class=2))
    assert graph.num_nodes == 401
    assert int(graph.y[-1]) == -1
    assert not bool((graph.train_mask | graph.val_mask | graph.test_mask)[-1])


def test_missing_lists_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"apt-cache.*apt-get update"):
        load_graph(DataConfig(source="debian"))
    with pytest.raises(UserError, match=r"no package is described.*data.path"):
        load_graph(packages_file(tmp_path, "\n\n"))
    with pytest.raises(UserError, match=r"no section holds 9 packages.*data.min_class"):
        load_graph(replace(packages_file(tmp_path), min_class=9))
    with pytest.raises(UserError, match="cannot be read"):
        load_graph(packages_file(tmp_path, b"\x1f\x8bnot really"))


def test_live_lists_are_within_the_known_ranges():
    """They change with every point release: ranges, not counts."""
    try:
        graph = load_graph(DataConfig(source="debian"))
    except UserError as error:
        pytest.skip(str(error))
    if graph.num_nodes < 10_000:
        pytest.skip("an excerpt of the lists")
    assert 40_000 < graph.num_nodes < 120_000
    assert 4 < graph.num_edges / graph.num_nodes < 30
    assert 30 <= graph.num_classes <= 60
    assert 0.5 < float(graph.train_mask.sum()) / float(graph.labels_known.sum()) < 0.7


# --------------------------------------------------------------------------------- files of a user

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


def test_conversion_that_the_message_shows_works(tmp_path):
    club = KarateClub()[0]
    club.val_mask, club.test_mask = ~club.train_mask, torch.zeros(34, dtype=torch.bool)
    torch.save(club.to_dict(), tmp_path / "graph.pt")
    graph = load_graph(DataConfig(source="auto", path=str(tmp_path / "graph.pt")))
    assert (graph.num_nodes, graph.num_edges, graph.num_classes) == (34, 156, 4)


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
        ("id,label,a,split\nx,0,1,maybe\n", "", "the split 'maybe'"),
        ("", "", "the file is empty"),
    ],
)
def test_csv_folder_that_makes_no_sense_is_refused(tmp_path, nodes, edges, said):
    with pytest.raises(UserError, match=rf"{said}.*data.path"):
        load_graph(folder(tmp_path, nodes, edges))


# ---------------------------------------------------------------------------- made and bundled


@pytest.mark.parametrize("source", ["blocks", "preferential", "grid", "rmat", "fake"])
def test_generated_graphs_are_simple_undirected_and_repeatable(source):
    config = DataConfig(source=source, nodes=900, degree=8.0, blocks=4, features=16, seed=3)
    graph = load_graph(config)
    assert graph.is_undirected
    assert not bool((graph.edge_index[0] == graph.edge_index[1]).any())
    pairs = graph.edge_index[0] * graph.num_nodes + graph.edge_index[1]
    assert len(pairs.unique()) == len(pairs)
    assert load_graph(config).digest == graph.digest
    assert load_graph(replace(config, seed=4)).digest != graph.digest


def test_block_model_has_the_homophily_and_degree_asked_for():
    config = DataConfig(source="blocks", nodes=5000, degree=12.0, blocks=5, homophily=0.7)
    graph = load_graph(config)
    same = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).float().mean()
    assert float(same) == pytest.approx(0.7 + 0.3 / 5, abs=0.02)
    assert graph.num_edges / 5000 == pytest.approx(12, rel=0.03)


def test_preferential_attachment_has_hubs_that_grow_with_the_root():
    """The oldest vertices' degree grows as √N: a power law, not a Poisson law."""
    graph = load_graph(DataConfig(source="preferential", nodes=10_000, degree=10.0))
    degree = torch.bincount(graph.edge_index[0], minlength=10_000)
    assert int(degree.max()) > 15 * float(degree.double().mean())
    assert float(degree[:100].double().mean()) > 8 * float(degree[5000:].double().mean())
    assert graph.num_edges / 10_000 == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("source", "nodes", "edges"),
    [("karate", 34, 156), ("lesmis", 77, 508), ("florentine", 15, 40), ("digits", 1797, None)],
)
def test_bundled_graphs_have_their_sizes(source, nodes, edges):
    graph = load_graph(source=source)
    assert graph.num_nodes == nodes
    assert edges is None or graph.num_edges == edges
    assert graph.is_undirected


def test_pyg_data_sets_name_the_folder_when_there_is_no_network(tmp_path, monkeypatch):
    import torch_geometric.datasets

    def offline(*arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch_geometric.datasets, "Planetoid", offline)
    config = DataConfig(source="pyg", name="Planetoid/Cora", path=str(tmp_path))
    with pytest.raises(UserError, match=rf"cannot be fetched.*{tmp_path}/Planetoid.*"):
        load_graph(config)
    with pytest.raises(UserError, match="did you mean Planetoid"):
        load_graph(DataConfig(source="pyg", name="Planetiod/Cora"))


def test_pyg_data_set_that_is_there_is_read():
    graph = load_graph(DataConfig(source="pyg", name="KarateClub"))
    assert graph.num_nodes == 34
