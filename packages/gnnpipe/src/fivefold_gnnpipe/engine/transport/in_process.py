"""Several ranks in one process: deterministic, with a clock that says what a link would cost."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from fivefold import UserError
from torch import Tensor

from .base import Transport
from .counters import Traffic
from .pending import Pending, Program

T = TypeVar("T")
_BITS = 8
_MEGA = 1e6


@dataclass(frozen=True)
class Link:
    """Every rank's own full-duplex link to a switch."""

    mbit: float | None = None
    """Rate in Mbit/s; `None`: a message takes no time."""

    def seconds(self, num_bytes: int) -> float:
        """Return how long the link is busy with so many bytes."""
        return 0.0 if self.mbit is None else num_bytes * _BITS / (self.mbit * _MEGA)


@dataclass(frozen=True)
class _Message:
    tensor: Tensor
    arrival: float


_Address = tuple[int, int, Traffic, int]


class InProcessNetwork:
    """The links between the virtual ranks of one process.

    Each rank has a clock that advances by the time its own code takes and, where a message is not
    there yet, to the moment at which the simulated link delivers it; so the longest clock is the
    time that as many processes would take, each on a processor of its own.
    """

    def __init__(self, size: int, link: Link | None = None) -> None:
        """Connect ranks 0 … size - 1.

        Args:
            size: the number of ranks.
            link: the rate of each rank's link; none: messages take no time.
        """
        self.link = link or Link()
        self.endpoints = [_Endpoint(rank, size, self) for rank in range(size)]
        self.boxes: defaultdict[_Address, deque[_Message]] = defaultdict(deque)
        self.notes: dict[int, str] = {}

    def __getitem__(self, rank: int) -> _Endpoint:
        """Return a rank's end."""
        return self.endpoints[rank]

    def deliver(self, tensor: Tensor, sender: int, peer: int, traffic: Traffic, index: int) -> None:
        """Put a message into its receiver's box, with the time at which it arrives there."""
        source, target = self.endpoints[sender], self.endpoints[peer]
        seconds = self.link.seconds(tensor.numel() * tensor.element_size())
        start = max(source.now(), source.out_free)
        source.out_free = start + seconds
        target.in_free = max(start, target.in_free) + seconds
        arrival = max(source.out_free, target.in_free)
        message = _Message(tensor.detach().clone(), arrival)
        self.boxes[sender, peer, traffic, index].append(message)

    @property
    def num_undelivered(self) -> int:
        """Messages that were sent and never asked for."""
        return sum(len(box) for box in self.boxes.values())


@dataclass
class _Arrival:
    """A receive that was posted in this process."""

    endpoint: _Endpoint
    shape: tuple[int, ...]
    dtype: torch.dtype
    address: _Address

    @property
    def description(self) -> str:
        sender, _, traffic, index = self.address
        return f"{traffic} {index} of rank {sender}"

    def is_ready(self) -> bool:
        return bool(self.endpoint.network.boxes[self.address])

    def wait(self) -> Tensor:
        message = self.endpoint.network.boxes[self.address].popleft()
        found = message.tensor
        assert tuple(found.shape) == self.shape, f"{self.description}: {tuple(found.shape)}"
        assert found.dtype == self.dtype, f"{self.description}: {found.dtype}"
        self.endpoint.advance_to(message.arrival)
        return found


class _Endpoint(Transport):
    """A virtual rank's end, with its clock."""

    def __init__(self, rank: int, size: int, network: InProcessNetwork) -> None:
        super().__init__(rank, size)
        self.network = network
        self.clock = 0.0
        self.out_free = 0.0
        self.in_free = 0.0
        self._resumed: float | None = None

    def post(
        self, shape: Sequence[int], dtype: torch.dtype, peer: int, traffic: Traffic, index: int = 0
    ) -> Pending:
        return _Arrival(self, tuple(shape), dtype, (peer, self.rank, traffic, index))

    def send(self, tensor: Tensor, peer: int, traffic: Traffic, index: int = 0) -> None:
        self.counters.add(traffic, peer, tensor.numel() * tensor.element_size())
        self.network.deliver(tensor, self.rank, peer, traffic, index)

    def exchange(self, note: str) -> list[str]:
        self.network.notes[self.rank] = note
        return [self.network.notes.get(rank, note) for rank in range(self.size)]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def now(self) -> float:
        running = 0.0 if self._resumed is None else time.perf_counter() - self._resumed
        return self.clock + running

    def advance_to(self, moment: float) -> None:
        self.waited += max(0.0, moment - self.clock)
        self.clock = max(self.clock, moment)

    def resume(self) -> None:
        self._resumed = time.perf_counter()

    def pause(self) -> None:
        self.clock = self.now()
        self._resumed = None


def run_in_process(network: InProcessNetwork, programs: Sequence[Program[T]]) -> list[T]:
    """Run one program a rank in turns: each goes on until what it waits for is not there.

    Args:
        network: the links; rank r runs `programs[r]`.
        programs: the ranks' programs.

    Returns:
        What each program returned.

    Raises:
        UserError: a rank failed where the user can mend it; the line names the rank.
        RuntimeError: all wait for messages that nobody sends.
    """
    waiting: dict[int, Pending | None] = dict.fromkeys(range(len(programs)))
    results: dict[int, T] = {}
    while waiting:
        runnable = [rank for rank, need in waiting.items() if need is None or need.is_ready()]
        if not runnable:
            raise RuntimeError(_deadlock(waiting))
        for rank in runnable:
            outcome = _advance(network[rank], programs[rank], waiting.pop(rank))
            if isinstance(outcome, _Done):
                results[rank] = outcome.result
            else:
                waiting[rank] = outcome
    return [results[rank] for rank in range(len(programs))]


@dataclass(frozen=True)
class _Done(Generic[T]):
    result: T


def _advance(endpoint: _Endpoint, program: Program[T], need: Pending | None) -> Pending | _Done[T]:
    """Let a rank go on until it waits for what is not there, or has finished."""
    while True:
        try:
            arrived = None if need is None else need.wait()
            endpoint.resume()
            need = next(program) if arrived is None else program.send(arrived)
        except StopIteration as stop:
            return _Done(stop.value)
        except UserError as error:
            raise _of_rank(error, endpoint) from error
        finally:
            endpoint.pause()
        if not need.is_ready():
            return need


def _of_rank(error: UserError, endpoint: _Endpoint) -> UserError:
    if endpoint.size == 1:
        return error
    problem = f"rank {endpoint.rank}: {error.problem}"
    return UserError(problem, setting=error.setting, remedy=error.remedy)


def _deadlock(waiting: Mapping[int, Pending | None]) -> str:
    said = (f"rank {rank} for {need.description}" for rank, need in waiting.items() if need)
    return f"all ranks wait for messages that nobody sends: {', '.join(said)}"
