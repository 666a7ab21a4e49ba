"""The ranks of a method: all of them in this process, or this process as one of torchrun's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from fivefold import UserError

from .._words import Wire
from ..config import TransportConfig
from .training import Session
from .transport import (
    DistributedTransport,
    InProcessNetwork,
    Link,
    Program,
    Transport,
    agree,
    is_launched,
    open_distributed,
    run_in_process,
    run_rank,
)

T = TypeVar("T")


class Fleet:
    """Ranks 0 … size - 1, of which this process runs some.

    Attributes:
        size: ranks in all.
        local: the ends of the ranks that this process runs, by rank.
        is_simulated: whether seconds are those of a simulated link.
    """

    def __init__(
        self, size: int, local: Sequence[Transport], network: InProcessNetwork | None
    ) -> None:
        self.size = size
        self.local = list(local)
        self.is_simulated = network is not None
        self._network = network

    def run(self, program: Callable[[Transport], Program[T]]) -> list[T]:
        """Run a program on every local rank and return what each returned, in order of rank."""
        programs = [program(end) for end in self.local]
        if self._network is not None:
            return run_in_process(self._network, programs)
        end = self.local[0]
        assert isinstance(end, DistributedTransport)
        return [run_rank(end, programs[0])]

    @property
    def holds_first(self) -> bool:
        """Whether rank 0 runs in this process."""
        return self.local[0].rank == 0

    def exchange(self, note: str) -> list[str]:
        """Return every process's note, in order; all processes wait for one another."""
        if self._network is not None:
            return [note]
        return self.local[0].exchange(note)

    def agree(self, facts: Mapping[str, object]) -> None:
        """Compare what all processes must have alike; nothing to do where there is one.

        Raises:
            UserError: a rank has others; the line names it, and what.
        """
        if self._network is None:
            agree(self.local[0], facts)

    def close(self) -> None:
        """Leave the group."""
        for end in self.local:
            end.close()


def open_fleet(config: TransportConfig, size: int, session: Session, setting: str) -> Fleet:
    """Return a method's ranks: as many as torchrun started, or virtual ones in this process.

    Args:
        config: what carries messages.
        size: ranks that the method's settings make.
        session: where this process stands among torchrun's.
        setting: the setting that decides `size`, for errors.

    Raises:
        UserError: torchrun started another number of ranks, or the wire does not suit.
    """
    kind = config.kind
    in_one = session.world == 1 if kind is Wire.AUTO else kind is Wire.LOOPBACK
    if in_one and session.world > 1:
        raise UserError(
            f"loopback joins ranks of one process, and torchrun started {session.world}",
            setting="training.transport.kind",
            value=kind.value,
            remedy="set it to auto, gloo or nccl",
        )
    link = Link(config.emulate_mbit)
    if in_one:
        network = InProcessNetwork(size, link)
        return Fleet(size, [network[rank] for rank in range(size)], network)
    if is_launched() and size != session.world:
        raise UserError(
            f"the settings make {size} ranks, and torchrun started {session.world}",
            setting=setting,
            remedy=f"start {size} with `torchrun --nproc-per-node {size} -m fivefold graph …`",
        )
    on_gpu = session.device.type == "cuda"
    backend = kind.value if kind is not Wire.AUTO else ("nccl" if on_gpu else "gloo")
    end = open_distributed(backend, session.device, config.timeout, link)
    return Fleet(size, [end], None)


def rank_device(device: str, local_rank: int) -> torch.device:
    """Return where a rank computes: its own GPU where there is one and none is named.

    Raises:
        UserError: a GPU is named and there is none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "this machine has no usable GPU",
            setting="runtime.device",
            value=device,
            remedy="set runtime.device=cpu",
        )
    if device in ("auto", "cuda"):
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device(device)
