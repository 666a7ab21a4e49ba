"""Ranks that are processes, under torchrun: gloo on processors, NCCL on GPUs."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from fivefold import UserError
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from .base import Transport
from .counters import Traffic
from .failure import FailureBoard
from .in_process import Link
from .pending import Pending, Program

T = TypeVar("T")
_LOOK = 0.2  # seconds between looks at the board while a message is waited for
_START = 60.0  # seconds that ranks may take to start, one after the other
_PATIENCE = 5.0  # seconds of waiting before the others are told of it
_GRACE = 5.0  # seconds for which rank 0 keeps the store after its own end
_TAGS = 1 << 20  # indices a purpose may use


@dataclass
class _Delivery:
    """A send or receive in the hands of a waiter."""

    work: dist.Work
    tensor: Tensor
    is_incoming: bool
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class _Waiter(threading.Thread):
    """Waits for the messages of one peer and purpose, in the order in which they were posted.

    gloo's own wait cannot be given up without breaking every connection, and says nothing of
    failures elsewhere; so it stands in a thread, and the rank waits for an event.
    """

    def __init__(self, throttle: _Throttle) -> None:
        super().__init__(daemon=True)
        self.deliveries: queue.SimpleQueue[_Delivery | None] = queue.SimpleQueue()
        self._throttle = throttle

    def run(self) -> None:
        while (delivery := self.deliveries.get()) is not None:
            try:
                delivery.work.wait()
                if delivery.is_incoming:
                    self._throttle.hold(delivery.tensor.numel() * delivery.tensor.element_size())
            except RuntimeError as error:
                delivery.error = str(error).splitlines()[0]
            delivery.done.set()


class _Throttle:
    """Makes this rank's incoming link as slow as asked: bytes / rate, one message after another."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free = 0.0
        self._lock = threading.Lock()

    def hold(self, num_bytes: int) -> None:
        if self._link.mbit is None:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + self._link.seconds(num_bytes)
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class DistributedTransport(Transport):
    """This process's end, over a process group of torch.distributed.

    Receives are posted early and sends go on in the background. On gloo a message's tag is its
    purpose and index. NCCL knows no tags: messages between two ranks arrive in the order sent, and
    upward and downward messages have communicators of their own, so that a posted receive never
    stands before a send.
    """

    def __init__(
        self, store: Store, device: torch.device, timeout: float, link: Link | None = None
    ) -> None:
        """Use the default process group.

        Args:
            store: the store that all ranks reach.
            device: where tensors are wanted.
            timeout: seconds to wait for a message before its sender is given up.
            link: a slower link to imitate on the receiving side.
        """
        super().__init__(dist.get_rank(), dist.get_world_size())
        self.board = FailureBoard(store, self.rank)
        self.timeout = timeout
        self._store = store
        self._device = device
        self._is_nccl = dist.get_backend() == "nccl"
        self._upward = dist.new_group() if self._is_nccl else None
        self._downward = dist.new_group() if self._is_nccl else None
        self._throttle = _Throttle(link or Link())
        self._waiters: dict[tuple[int, Traffic, bool], _Waiter] = {}
        self._sending: list[tuple[_Delivery, int]] = []
        self._exchanges = 0

    def post(
        self, shape: Sequence[int], dtype: torch.dtype, peer: int, traffic: Traffic, index: int = 0
    ) -> Pending:
        """Post a receive now; the tensor's room is made now too."""
        buffer = torch.empty(tuple(shape), dtype=dtype, device=self._wire)
        try:
            work = dist.irecv(
                buffer, peer, group=self._group(peer, self.rank), tag=_tag(traffic, index)
            )
        except RuntimeError as error:
            raise self.board.lost(peer, "has ended") from error
        assert work is not None
        delivery = _Delivery(work, buffer, is_incoming=True)
        self._hand_over(delivery, peer, traffic)
        return _Receive(self, delivery, peer, f"{traffic} {index} of rank {peer}")

    def send(self, tensor: Tensor, peer: int, traffic: Traffic, index: int = 0) -> None:
        """Send in the background; the tensor is kept alive until it has left."""
        self.counters.add(traffic, peer, tensor.numel() * tensor.element_size())
        wire = tensor.detach().to(self._wire).contiguous()
        try:
            work = dist.isend(
                wire, peer, group=self._group(self.rank, peer), tag=_tag(traffic, index)
            )
        except RuntimeError as error:
            raise self.board.lost(peer, "has ended") from error
        assert work is not None
        delivery = _Delivery(work, wire, is_incoming=False)
        self._hand_over(delivery, peer, traffic)
        self._sending = [(sent, to) for sent, to in self._sending if not sent.done.is_set()]
        self._sending.append((delivery, peer))

    def exchange(self, note: str) -> list[str]:
        """Return every rank's note, in order of rank.

        Raises:
            UserError: a rank says nothing within the timeout.
        """
        prefix = f"fivefold/note/{self._exchanges}"
        self._exchanges += 1
        self._store.set(f"{prefix}/{self.rank}", note)
        return [self._note_of(rank, f"{prefix}/{rank}") for rank in range(self.size)]

    def flush(self) -> None:
        """Return when everything sent has left this rank.

        Raises:
            UserError: a receiver is lost, or any rank has failed.
        """
        for delivery, peer in self._sending:
            self.wait_for(delivery, peer)
        self._sending.clear()

    def close(self) -> None:
        """Leave the process group; a second call does nothing."""
        waiters = list(self._waiters.values())
        self._waiters.clear()
        for waiter in waiters:
            waiter.deliveries.put(None)
        for waiter in waiters:
            waiter.join(_LOOK)
        if any(waiter.is_alive() for waiter in waiters):
            atexit.register(_leave_at_once)
        if dist.is_initialized():
            self._part()
            dist.destroy_process_group()

    def _part(self) -> None:
        """Keep the store, which is rank 0's, until all have read what is in it, or for a while."""
        until = time.monotonic() + _GRACE
        with contextlib.suppress(dist.DistError, RuntimeError):  # the store is gone already
            self._store.set(f"fivefold/left/{self.rank}", "")
            keys = [f"fivefold/left/{rank}" for rank in range(self.size)]
            while self.rank == 0 and not self._store.check(keys) and time.monotonic() < until:
                time.sleep(_LOOK / 10)

    def wait_for(self, delivery: _Delivery, peer: int) -> None:
        """Return when a message has arrived or left.

        Raises:
            UserError: its other end is lost, or any rank has failed.
        """
        begin, is_said = time.monotonic(), False
        while not delivery.done.wait(_LOOK):
            self.board.look()
            if not is_said and time.monotonic() > begin + min(_PATIENCE, self.timeout / 4):
                self.board.waits_for(peer)
                is_said = True
            if time.monotonic() > begin + self.timeout:
                silent = self.board.culprit(peer)
                raise self.board.lost(silent, f"was silent for {self.timeout:g} s")
        if is_said:
            self.board.waits_for(None)
        if delivery.error:
            raise self.board.lost(peer, "has ended")

    @property
    def _wire(self) -> torch.device:
        return self._device if self._is_nccl else torch.device("cpu")

    def _group(self, sender: int, receiver: int) -> dist.ProcessGroup | None:
        return self._upward if sender < receiver else self._downward

    def _hand_over(self, delivery: _Delivery, peer: int, traffic: Traffic) -> None:
        if self._is_nccl:
            delivery.work.wait()  # orders the current stream behind it; the host goes on
            delivery.done.set()
            return
        key = (peer, traffic, delivery.is_incoming)
        if key not in self._waiters:
            self._waiters[key] = _Waiter(self._throttle)
            self._waiters[key].start()
        self._waiters[key].deliveries.put(delivery)

    def _note_of(self, rank: int, key: str) -> str:
        until = time.monotonic() + self.timeout
        while True:
            self.board.look()
            try:
                if self._store.check([key]):
                    return str(self._store.get(key), "utf-8")
            except (dist.DistError, RuntimeError) as error:
                raise self.board.lost(0, "has ended") from error
            if time.monotonic() > until:
                raise self.board.lost(rank, f"was silent for {self.timeout:g} s")
            time.sleep(_LOOK / 10)


@dataclass
class _Receive:
    """A receive that was posted to another process."""

    transport: DistributedTransport
    delivery: _Delivery
    peer: int
    description: str

    def is_ready(self) -> bool:
        return self.delivery.done.is_set()

    def wait(self) -> Tensor:
        start = time.perf_counter()
        self.transport.wait_for(self.delivery, self.peer)
        self.transport.waited += time.perf_counter() - start
        return self.delivery.tensor.to(self.transport._device)


def _leave_at_once() -> None:
    """End the process as a `UserError` does, though threads still wait for a lost rank.

    gloo cannot be told to give a wait up; a thread that returns from one while the interpreter
    ends would abort the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _tag(traffic: Traffic, index: int) -> int:
    return traffic.number * _TAGS + index % _TAGS


def is_launched() -> bool:
    """Whether torchrun, or whatever sets the same variables, started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def open_distributed(
    backend: str, device: torch.device, timeout: float, link: Link | None = None
) -> DistributedTransport:
    """Join the ranks that torchrun started.

    Args:
        backend: `gloo` or `nccl`.
        device: where tensors are wanted; NCCL needs a GPU.
        timeout: seconds to wait for a rank before it is given up.
        link: a slower link to imitate on the receiving side.

    Raises:
        UserError: no such ranks, or they do not find each other.
    """
    if not is_launched():
        raise UserError(
            "this process is no rank of several",
            setting="training.transport.kind",
            value=backend,
            remedy="start with `torchrun --nproc-per-node P -m fivefold graph …`, or kind=loopback",
        )
    if backend == "nccl" and device.type != "cuda":
        raise UserError(
            "NCCL moves tensors of GPUs only",
            setting="training.transport.kind",
            value=backend,
            remedy="set runtime.device=cuda, or kind=gloo",
        )
    limit = timedelta(seconds=max(timeout, _START))
    try:
        store, rank, size = next(rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        joining = PrefixStore("group", store)
        grace = timedelta(
            seconds=2 * max(timeout, _START)
        )  # ours is to end first, with a line of its own
        dist.init_process_group(backend, store=joining, rank=rank, world_size=size, timeout=grace)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the ranks do not find each other: {str(error).splitlines()[0]}",
            setting="training.transport.timeout",
            value=timeout,
            remedy="start every rank with the same command, MASTER_ADDR, MASTER_PORT, WORLD_SIZE",
        ) from error
    return DistributedTransport(PrefixStore("ranks", store), device, timeout, link)


def run_rank(transport: DistributedTransport, program: Program[T]) -> T:
    """Run this process's program, waiting where it waits, until what it sent has left.

    Raises:
        UserError: this rank or another has failed; the line names it.
    """
    with transport.board.announcing():
        try:
            need = next(program)
            while True:
                need = program.send(need.wait())
        except StopIteration as stop:
            transport.flush()
            result: T = stop.value
            return result
