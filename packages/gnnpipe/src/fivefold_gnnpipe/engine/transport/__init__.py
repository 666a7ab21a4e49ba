"""How ranks exchange tensors: in one process, or over torch.distributed, behind one interface."""

from .agreement import agree
from .base import Transport
from .collectives import all_gather, ring_all_reduce
from .counters import ByteCounters, Traffic
from .distributed import DistributedTransport, is_launched, open_distributed, run_rank
from .in_process import InProcessNetwork, Link, run_in_process
from .pending import Pending, Program

__all__ = [
    "ByteCounters",
    "DistributedTransport",
    "InProcessNetwork",
    "Link",
    "Pending",
    "Program",
    "Traffic",
    "Transport",
    "agree",
    "all_gather",
    "is_launched",
    "open_distributed",
    "ring_all_reduce",
    "run_in_process",
    "run_rank",
]
