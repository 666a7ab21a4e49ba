"""The words of graph training: tasks, kinds of edges, ways to partition (imports nothing heavy)."""

from __future__ import annotations

from enum import StrEnum

TASK = "task:graph"
"""What the graph tasks provide, and every method of this package needs."""


class Exactness(StrEnum):
    """What a training method promises of its gradients."""

    EXACT = "exact-gradient"
    """Equal to full-graph training up to rounding."""
    STALE = "stale-neighbours"
    """Neighbours of other chunks may be as old as the history."""


class Norm(StrEnum):
    """How the edges of a model are weighted."""

    SYM = "sym"
    """D^-1/2 A D^-1/2, PyG's `gcn_norm`."""
    MEAN = "mean"
    """D^-1 A: the mean over in-neighbours."""
    NONE = "none"
    """The weights that the graph came with, or none."""


class Split(StrEnum):
    """How vertices are divided into parts."""

    AUTO = "auto"
    """METIS, or `bfs` where pymetis is not installed."""
    METIS = "metis"
    """METIS, k-way, few cut edges."""
    BFS = "bfs"
    """Breadth-first order, cut where the weight is equal: deterministic, needs no library."""
    RANDOM = "random"
    """Every vertex anywhere."""
    CONTIGUOUS = "contiguous"
    """Runs of vertex ids."""
    FILE = "file"
    """One part number a vertex, from a file."""


class Balance(StrEnum):
    """What METIS and `bfs` keep equal between parts."""

    AUTO = "auto"
    """What suits the method: edges, since they are the work."""
    EDGES = "edges"
    """Degree plus one."""
    NODES = "nodes"
    """Vertices."""


class Wire(StrEnum):
    """What carries messages between ranks."""

    AUTO = "auto"
    """Loop-back in one process; gloo on CPUs and NCCL on GPUs under torchrun."""
    LOOPBACK = "loopback"
    """All ranks in one process."""
    GLOO = "gloo"
    """torch.distributed over TCP."""
    NCCL = "nccl"
    """torch.distributed between NVIDIA GPUs."""


class Direction(StrEnum):
    """How the edges of a file are read."""

    UNDIRECTED = "undirected"
    """Both ways."""
    IN = "in"
    """A vertex aggregates over the edges that point to it."""
    OUT = "out"
    """A vertex aggregates over the edges that leave it."""


class DebianSplit(StrEnum):
    """By what the Debian graph is split into train, validation and test."""

    SOURCE = "source"
    """By source package: what one source builds stands on one side."""
    BINARY = "binary"
    """By binary package: near-copies stand on both sides, and every score is inflated."""
