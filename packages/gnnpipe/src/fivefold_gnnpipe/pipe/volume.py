"""What each way of training sends in an epoch, in bytes, and holds (source, sections 3 and 4.7).

Pure arithmetic: no graph is needed beside N, B and the widths. Exact integers; the byte counters
of the transports must equal them.

    graph parallel  2 · B(P) · Σ widths · e + 2 (P - 1) · |θ| · e
    pipeline        2 (S - 1) · N · c · e
    hybrid          pipeline + 2 · B(W) · Σ widths · e + 2 (W - 1) · |θ| · e
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What of a graph and a model decides the bytes."""

    num_nodes: int
    """Vertices, N."""
    widths: Sequence[int]
    """Columns that each layer aggregates; 0 for a first layer that reads features."""
    carried: Sequence[int]
    """Columns of the carried tensor after each layer."""
    num_weights: int
    """Weights, |θ|."""
    initial: int = 0
    """Columns of an initial embedding that all layers read (GCNII)."""
    num_encoder_weights: int = 0
    """Weights of the encoder, copied where every stage computes that embedding itself."""
    item: int = 4
    """Bytes an element, e."""
    num_features: int = 0
    """Columns of the features."""
    kept: Sequence[int] = ()
    """Rows a vertex that each layer's backward pass keeps of a whole graph."""


def graph_parallel_bytes(sizes: Sizes, boundary: int, parts: int) -> int:
    """Return what graph parallelism sends: boundary rows there and back, weights in a ring.

    Args:
        sizes: graph and model.
        boundary: B of the partition: pairs of a vertex and another part that reads it.
        parts: devices, P.
    """
    rows = 2 * boundary * sum(sizes.widths)
    return (rows + 2 * (parts - 1) * sizes.num_weights) * sizes.item


def pipeline_bytes(
    sizes: Sizes,
    cuts: Sequence[int],
    *,
    sends_initial: bool = False,
    ways: int = 1,
    boundary: int = 0,
) -> int:
    """Return what a pipeline sends, a hybrid included.

    Args:
        sizes: graph and model.
        cuts: layers after which a stage ends.
        sends_initial: whether the initial embedding travels beside the carried rows; otherwise
            the encoder's weight gradients are summed over all devices.
        ways: devices a stage, W.
        boundary: B of the partition into ways.
    """
    beside = sizes.initial if sends_initial else 0
    rows = 2 * sizes.num_nodes * sum(sizes.carried[cut - 1] + beside for cut in cuts)
    rows += 2 * boundary * sum(sizes.widths)
    copied = sizes.num_encoder_weights if sizes.initial and not sends_initial and cuts else 0
    devices = (len(cuts) + 1) * ways
    weights = 2 * (ways - 1) * (sizes.num_weights - copied) + 2 * (devices - 1) * copied
    return (rows + weights) * sizes.item


def crossover_layers(num_nodes: int, boundary: int, stages: int, carried: int, width: int) -> float:
    """Return L*: from so many layers on the pipeline sends less than graph parallelism."""
    if not boundary:
        return float("inf")
    return (stages - 1) * num_nodes * carried / (boundary * width)


def utilisation(slots: int, stages: int) -> float:
    """Return the share of time a stage is at work: K / (K + S - 1)."""
    return slots / (slots + stages - 1)


# -------------------------------------------------------------------------------------------------
# memory, bytes a device

_ENDS = 6
"""Rows a vertex, of the last layer's width, that encoder, head, scores and their gradients take."""
_KEPT_IN_CHUNKS = 6
"""Rows a vertex that a layer keeps when it is computed chunk by chunk, beside its buffers."""
_KEPT_TO_RECOMPUTE = 2
"""Rows a vertex that a layer keeps when it is computed again: what it was given, its gradient."""


def _ends(sizes: Sizes, rows: int) -> int:
    """Return the numbers that features (and a dropped-out copy), encoder and head take."""
    return rows * (2 * sizes.num_features + _ENDS * sizes.carried[-1])


def edge_bytes(num_edges: int, num_nodes: int, item: int) -> int:
    """Return the bytes of a sparse matrix kept both ways, with 64-bit indices."""
    return 2 * (num_edges * (8 + item) + (num_nodes + 1) * 8)


def _kept(sizes: Sizes) -> int:
    """Return the numbers a vertex that all layers keep of a whole graph."""
    return sum(kept * width for kept, width in zip(sizes.kept, sizes.carried, strict=True))


def plain_memory(sizes: Sizes, num_edges: int) -> int:
    """Return what full-graph training holds on one device.

    Args:
        sizes: graph and model.
        num_edges: directed edges.
    """
    rows = sizes.num_nodes * _kept(sizes) + _ends(sizes, sizes.num_nodes)
    weights = 4 * sizes.num_weights
    return (rows + weights) * sizes.item + edge_bytes(num_edges, sizes.num_nodes, sizes.item)


def graph_parallel_memory(sizes: Sizes, num_edges: int, boundary: int, parts: int) -> int:
    """Return what a device of graph parallelism holds: its vertices and their halo, all layers."""
    own = -(-sizes.num_nodes // parts)
    halo = -(-boundary // parts)
    rows = own * _kept(sizes) + 2 * halo * sum(sizes.carried) + _ends(sizes, own)
    weights = 4 * sizes.num_weights
    edges = edge_bytes(-(-num_edges // parts), own + halo, sizes.item)
    return (rows + weights) * sizes.item + edges


def pipeline_memory(
    sizes: Sizes,
    cuts: Sequence[int],
    num_edges: int,
    *,
    ways: int = 1,
    boundary: int = 0,
    recompute: bool = False,
    pushes: bool = False,
) -> int:
    """Return what the largest stage holds: buffers of its layers, edges, activations or a chunk's.

    Layers that pull have two buffers (board, history), layers that push three.

    Args:
        sizes: graph and model.
        cuts: layers after which a stage ends.
        num_edges: directed edges.
        ways: devices a stage.
        boundary: B of the partition into ways.
        recompute: whether activations are computed again instead of kept; then layers push.
        pushes: whether a layer is no product with fixed weights.
    """
    ends = [*cuts, len(sizes.carried)]
    begins = [0, *cuts]
    own = -(-sizes.num_nodes // ways)
    halo = -(-boundary // ways)
    layers = max(sum(sizes.carried[begin:end]) for begin, end in zip(begins, ends, strict=True))
    buffers = (3 if pushes or recompute else 2) * (own + halo) * layers
    kept = _KEPT_TO_RECOMPUTE if recompute else _KEPT_IN_CHUNKS
    activations = kept * own * layers + _ends(sizes, own)
    weights = 4 * sizes.num_weights // len(ends)
    edges = edge_bytes(-(-num_edges // ways), own + halo, sizes.item)
    return (buffers + activations + weights) * sizes.item + edges
