"""Small graphs that come inside libraries: tests and first tries need no file."""

from __future__ import annotations

import networkx
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch_geometric.datasets import KarateClub

from ...config import DataConfig
from ..graph import GraphData, clean_edges, hashed_masks

_NEIGHBOURS = 8


def digits(config: DataConfig) -> GraphData:
    """Return scikit-learn's 1,797 hand-written digits, each joined to its 8 nearest."""
    pixels, labels = load_digits(return_X_y=True)
    near = kneighbors_graph(pixels, _NEIGHBOURS).tocoo()
    edges = torch.from_numpy(np.stack([near.row, near.col]).astype(np.int64))
    x = torch.from_numpy(pixels.astype(np.float32) / 16.0)
    return _graph("digits", x, edges, torch.from_numpy(labels.astype(np.int64)), 10)


def karate(config: DataConfig) -> GraphData:
    """Return Zachary's karate club: 34 members, 4 classes; features name the vertex."""
    club = KarateClub()[0]
    edges, _ = clean_edges(club.edge_index, 34, undirected=True)
    rest = ~club.train_mask
    odd = torch.arange(34) % 2 == 1
    return GraphData(
        x=club.x.float(),
        edge_index=edges,
        y=club.y.to(torch.int64),
        train_mask=club.train_mask,
        val_mask=rest & odd,
        test_mask=rest & ~odd,
        num_classes=4,
        name="karate",
    )


def lesmis(config: DataConfig) -> GraphData:
    """Return who meets whom in Les Misérables: 77 figures; classes are communities."""
    return _of_networkx("lesmis", networkx.les_miserables_graph())


def florentine(config: DataConfig) -> GraphData:
    """Return the marriages of 15 Florentine families; classes are communities."""
    return _of_networkx("florentine", networkx.florentine_families_graph())


def _of_networkx(name: str, graph: networkx.Graph) -> GraphData:
    """Return a graph whose classes are greedy communities and whose features name the vertex."""
    names = sorted(graph)
    place = {node: index for index, node in enumerate(names)}
    edges = torch.tensor([[place[a], place[b]] for a, b in graph.edges]).T.contiguous()
    y = torch.zeros(len(names), dtype=torch.int64)
    groups = networkx.community.greedy_modularity_communities(graph)
    for number, members in enumerate(groups):
        y[[place[member] for member in members]] = number
    return _graph(name, torch.eye(len(names)), edges, y, len(groups))


def _graph(
    name: str, x: torch.Tensor, edges: torch.Tensor, y: torch.Tensor, num_classes: int
) -> GraphData:
    clean, _ = clean_edges(edges, len(y), undirected=True)
    masks = hashed_masks([str(node).encode() for node in range(len(y))])
    return GraphData(x, clean, y, *masks, num_classes=num_classes, name=name)
