"""The graph of Debian's package lists: what becomes a vertex, an edge, a label, a feature."""

from __future__ import annotations

import gzip
import lzma
from dataclasses import replace
from pathlib import Path

import lz4.frame
import pytest
import torch
from fivefold import UserError
from fivefold_gnnpipe import DataConfig, load_graph
from fivefold_gnnpipe._words import DebianSplit, Direction
from fivefold_gnnpipe.engine.sources import debian

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
    packed = bytearray(gzip.compress(STANZAS.encode()))
    packed[20:40] = bytes(20)
    for damaged in (b"\x1f\x8bnot really", bytes(packed)):
        with pytest.raises(UserError, match="cannot be read"):
            load_graph(packages_file(tmp_path, damaged))


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
