"""Graphs of any size, made here: for scaling curves, and the best and worst cases of a partition.

All are vectorised and deterministic in their seed; features are the class's mean plus unit noise.
"""

from __future__ import annotations

import numpy as np
import torch

from ...config import DataConfig
from ..graph import GraphData, clean_edges, hashed_masks

_WIDEST = 64
"""Feature columns of a generated graph, unless fewer are asked for."""
_QUADRANTS = (0.57, 0.19, 0.19, 0.05)
"""Graph500's probabilities of an R-MAT edge to fall into each quadrant."""


def block_model(config: DataConfig) -> GraphData:
    """Return a stochastic block model: `homophily` of a vertex's edges stay in its block.

    Classes are blocks; neighbours tell more about them than a vertex's own features.
    """
    rng = np.random.default_rng(config.seed)
    nodes, blocks = config.nodes, min(config.blocks, config.nodes)
    labels = rng.integers(blocks, size=nodes)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(blocks + 1))
    count = int(nodes * config.degree / 2)
    source = rng.integers(nodes, size=count)
    begin, end = starts[labels[source]], starts[labels[source] + 1]
    inside = order[begin + (rng.random(count) * (end - begin)).astype(np.int64)]
    target = np.where(rng.random(count) < config.homophily, inside, rng.integers(nodes, size=count))
    return _graph("blocks", config, np.stack([source, target]), labels, blocks, rng)


def preferential_attachment(config: DataConfig) -> GraphData:
    """Return a graph in which new vertices prefer vertices of high degree: the hardest to cut.

    Each new vertex copies ends of earlier edges, which has the law of repeated endpoints
    (Batagelj and Brandes, 2005): slot i of the list of ends is either the new vertex or, half the
    time's worth, an earlier slot. Labels are drawn at random, since the structure has none.
    """
    rng = np.random.default_rng(config.seed)
    nodes, each = config.nodes, max(int(config.degree / 2), 1)
    count = nodes * each
    # edge e joins vertex e // each to the end stored in a uniformly chosen earlier slot
    slots = (rng.random(count) * (2 * np.arange(count) + 1)).astype(np.int64)
    owner = np.arange(count) // each
    target = slots.copy()
    while True:  # follow references to targets until all name a source: depth is logarithmic
        refers = target % 2 == 1
        if not refers.any():
            break
        target[refers] = slots[target[refers] // 2]
    edges = np.stack([owner, owner[target // 2]])
    labels = rng.integers(min(config.blocks, nodes), size=nodes)
    return _graph("preferential", config, edges, labels, min(config.blocks, nodes), rng)


def grid(config: DataConfig) -> GraphData:
    """Return a square grid: the easiest to cut. Classes are vertical stripes."""
    rng = np.random.default_rng(config.seed)
    side = max(int(config.nodes**0.5), 1)
    node = np.arange(side * side).reshape(side, side)
    right = np.stack([node[:, :-1].ravel(), node[:, 1:].ravel()])
    down = np.stack([node[:-1].ravel(), node[1:].ravel()])
    blocks = min(config.blocks, side)
    labels = (np.arange(side) * blocks // side)[None].repeat(side, 0).ravel()
    return _graph("grid", config, np.concatenate([right, down], 1), labels, blocks, rng)


def rmat(config: DataConfig) -> GraphData:
    """Return an R-MAT graph, as Graph500 uses: every bit of an edge's ends picks a quadrant."""
    rng = np.random.default_rng(config.seed)
    bits = max(int(np.ceil(np.log2(max(config.nodes, 2)))), 1)
    count = int(config.nodes * config.degree / 2)
    edges = np.zeros((2, count), dtype=np.int64)
    for _ in range(bits):
        quadrant = rng.choice(4, size=count, p=_QUADRANTS)
        edges = 2 * edges + np.stack([quadrant // 2, quadrant % 2])
    edges %= config.nodes
    blocks = min(config.blocks, config.nodes)
    labels = rng.integers(blocks, size=config.nodes)
    return _graph("rmat", config, edges, labels, blocks, rng)


def _graph(
    name: str,
    config: DataConfig,
    edges: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
) -> GraphData:
    nodes, width = len(labels), min(config.features, _WIDEST)
    means = rng.standard_normal((num_classes, width)) * config.signal / np.sqrt(2 * width)
    x = rng.standard_normal((nodes, width), dtype=np.float32)
    x += means[labels].astype(np.float32)
    clean, _ = clean_edges(torch.from_numpy(edges), nodes, undirected=True)
    masks = hashed_masks([str(node).encode() for node in range(nodes)])
    y = torch.from_numpy(labels.astype(np.int64))
    return GraphData(torch.from_numpy(x), clean, y, *masks, num_classes=num_classes, name=name)
