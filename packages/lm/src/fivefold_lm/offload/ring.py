"""Layers streamed through a few buffers, ahead of the computation and across passes.

The layers that do not stay are loaded in the order of their use into a ring of buffers. As soon as
the computation has left a buffer the next load into it begins; after the last layers of a pass
these are the first ones of the next, so that loading goes on while somebody drafts.

Source: SpecExec, arXiv 2406.02532, section 4.2. Unlike in its release (`offloading/`), the model's
list of layers is left alone, layers are counted, and an error of a load is an error of the pass.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from .storage import aligned_bytes

_PATIENCE = 1.0  # seconds after which a waiting pass looks whether the reader still lives


@runtime_checkable
class Layers(Protocol):
    """Where the layers lie that are streamed, or stay, on the device."""

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each layer's storage."""

    def load(self, layer: int, buffer: UInt8[Tensor, " byte"]) -> None:
        """Bring a layer's bytes to the front of a buffer.

        From memory to an accelerator: enqueue the copy on the current stream. Else return when the
        bytes are there.
        """

    def interrupt(self) -> None:
        """Let a load that waits for its turn return at once."""

    def close(self) -> None:
        """Give back files and memory; no load may follow."""


class Streamed(NamedTuple):
    """What a streamer has done so far."""

    passes: int
    nbytes: int
    """Bytes loaded into the ring."""
    t_stream: float
    """Seconds that loading took, overlapped or not."""
    t_wait: float
    """Seconds that passes waited for layers; 0 on an accelerator, where the host never waits."""


class LayerStreamer:
    """Keeps some layers on the device and streams the others through a ring of buffers.

    A pass is `begin`, then `acquire` and `release` of each layer in its order, then `end`.

    Args:
        layers: where the layers lie.
        n_resident: layers that stay on the device, spread evenly among the others.
        n_buffers: buffers of the ring; 0 when all layers stay, which makes it a pass-through.
        device: where the model computes.
        link: makes what loads into the ring; None: a thread on a CPU, a stream on an accelerator.

    Raises:
        ValueError: layers would be streamed through no buffer.
    """

    def __init__(
        self,
        layers: Layers,
        n_resident: int,
        n_buffers: int,
        device: torch.device,
        link: Callable[[Layers, Sequence[Tensor], torch.device], Link] | None = None,
    ) -> None:
        count = len(layers.sizes)
        if n_resident < count and n_buffers < 1:
            raise ValueError(f"{count - n_resident} layers are streamed through no buffer")
        self.streamed = evenly(count, count - n_resident)
        self.count = count
        self._order = [layer for layer in range(count) if layer in self.streamed]
        self._layers, self._device = layers, device
        self.resident = {
            layer: _room(layers.sizes[layer], device)
            for layer in range(count)
            if layer not in self.streamed
        }
        for layer, storage in self.resident.items():
            layers.load(layer, storage)
        size = max((layers.sizes[layer] for layer in self._order), default=0)
        self.buffers = [_room(size, device) for _ in range(n_buffers if self._order else 0)]
        self._link: Link | None = None
        if self._order:
            made = link or (ReaderThread if device.type == "cpu" else CopyStream)
            self._link = made(layers, self.buffers, device)
        else:
            layers.close()
        self._loaded = self._used = 0  # loads begun, and layers taken out of the ring, since reset
        self._next = 0  # layer that the running pass takes next
        self._passes = 0
        self._waited = 0.0

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that each pass streams."""
        return sum(self._layers.sizes[layer] for layer in self._order)

    def prefetch(self) -> None:
        """Begin to load the first streamed layers of the next pass, unless that has begun."""
        if self._used % max(len(self._order), 1) or self._loaded == 0:
            self._reset()

    def begin(self) -> None:
        """Begin a pass; one that was given up in the middle is forgotten."""
        self.prefetch()
        self._next = 0

    def acquire(self, layer: int) -> int | None:
        """Wait for a layer and return the buffer that holds it; None: it stays in `resident`.

        Raises:
            RuntimeError: it is not the pass's next layer.
            Exception: whatever the load ended with.
        """
        if layer != self._next:
            raise RuntimeError(f"layer {layer} runs where layer {self._next} should")
        if layer not in self.streamed:
            return None
        assert self._link is not None
        buffer = self._used % len(self.buffers)
        begin = time.perf_counter()
        try:
            self._link.wait(buffer)
        except BaseException:
            self._loaded = 0  # the next pass begins anew
            raise
        self._waited += time.perf_counter() - begin
        return buffer

    def release(self, layer: int) -> None:
        """Say that all computation with a layer has been enqueued; its buffer is loaded anew."""
        self._next = layer + 1
        if layer not in self.streamed:
            return
        assert self._link is not None
        self._link.free(self._used % len(self.buffers))
        self._used += 1
        self._fill()

    def end(self) -> None:
        """End a pass.

        Raises:
            RuntimeError: not every layer has run.
        """
        if self._next != self.count:
            raise RuntimeError(f"{self._next} of {self.count} layers ran")
        self._passes += 1

    def copy_of(self, layer: int) -> UInt8[Tensor, " byte"]:
        """Return a streamed layer in memory of its own; the ring goes on meanwhile."""
        storage = _room(self._layers.sizes[layer], self._device)
        self._layers.load(layer, storage)
        return storage

    def done(self) -> Streamed:
        """Return what was streamed so far."""
        nbytes, seconds = (0, 0.0) if self._link is None else self._link.moved()
        return Streamed(self._passes, nbytes, seconds, self._waited)

    def close(self) -> None:
        """End the reader; no pass may follow."""
        if self._link is not None:
            self._link.close()

    def _reset(self) -> None:
        """Start at the first layer, when the computation and all loads have left the buffers."""
        if self._link is None:
            return
        self._link.drain()
        for buffer in range(len(self.buffers)):
            self._link.free(buffer)
        self._loaded = self._used = 0
        self._fill()

    def _fill(self) -> None:
        assert self._link is not None
        while self._loaded < self._used + len(self.buffers):
            layer = self._order[self._loaded % len(self._order)]
            self._link.begin(layer, self._loaded % len(self.buffers))
            self._loaded += 1


def evenly(count: int, chosen: int) -> frozenset[int]:
    """Choose some of `count` layers, as evenly as can be also from one pass to the next."""

    def before(layer: int) -> int:
        return (2 * layer * chosen + count) // (2 * count)

    return frozenset(layer for layer in range(count) if before(layer + 1) > before(layer))


@runtime_checkable
class Link(Protocol):
    """Loads layers into the buffers of a ring, one after the other."""

    def begin(self, layer: int, buffer: int) -> None:
        """Begin to load a layer as soon as earlier loads and the buffer's last use are over."""

    def wait(self, buffer: int) -> None:
        """Let computation from here on follow the buffer's load; raise what went wrong with it."""

    def free(self, buffer: int) -> None:
        """Say that computation so far is the buffer's last use."""

    def drain(self) -> None:
        """Forget loads that have not begun, and wait for one that has."""

    def moved(self) -> tuple[int, float]:
        """Return bytes loaded and the seconds that took."""

    def close(self) -> None:
        """End it."""


class _Load:
    """One load on its way."""

    def __init__(self, layer: int, buffer: Tensor) -> None:
        self.layer, self.buffer = layer, buffer
        self.is_wanted = True
        self.over = threading.Event()
        self.error: BaseException | None = None


class _Meter:
    """What the reader has loaded; written by its thread alone."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.seconds = 0.0


class ReaderThread:
    """A link whose loads block: a thread does them, in order.

    On the host computation is over when its call returns: a buffer is free when it is freed.
    """

    def __init__(self, layers: Layers, buffers: Sequence[Tensor], device: torch.device) -> None:
        self._buffers = buffers
        self._loads: list[_Load | None] = [None] * len(buffers)
        self._queue: SimpleQueue[_Load | None] = SimpleQueue()
        self._meter = _Meter()
        self._thread = threading.Thread(
            target=_serve,
            args=(layers, self._queue, self._meter),
            name="fivefold-layers",
            daemon=True,
        )
        self._thread.start()
        self.close = weakref.finalize(self, _end, layers, self._queue, self._thread)

    def begin(self, layer: int, buffer: int) -> None:
        """Hand the load to the thread."""
        load = self._loads[buffer] = _Load(layer, self._buffers[buffer])
        self._queue.put(load)

    def wait(self, buffer: int) -> None:
        """Wait until the bytes are there."""
        load = self._loads[buffer]
        assert load is not None
        while not load.over.wait(_PATIENCE):
            if not self._thread.is_alive():  # as in the child of a fork
                raise RuntimeError("the thread that reads layers is gone; load the model again")
        if load.error is not None:
            raise load.error

    def free(self, buffer: int) -> None:
        """Nothing to do: the computation is over."""

    def drain(self) -> None:
        """Let the thread skip what waits, and wait for what it is at."""
        for load in self._loads:
            if load is not None:
                load.is_wanted = False
        for load in self._loads:
            while load is not None and self._thread.is_alive() and not load.over.wait(_PATIENCE):
                pass

    def moved(self) -> tuple[int, float]:
        """Return bytes loaded and the seconds that took."""
        return self._meter.nbytes, self._meter.seconds


def _serve(layers: Layers, queue: SimpleQueue[_Load | None], meter: _Meter) -> None:
    """Load what comes; holds no reference to the link, which ends it when it dies."""
    while (load := queue.get()) is not None:
        begin = time.perf_counter()
        try:
            if load.is_wanted:
                layers.load(load.layer, load.buffer)
                meter.nbytes += layers.sizes[load.layer]
        except BaseException as error:  # it belongs to the pass that waits for this load
            load.error = error
        meter.seconds += time.perf_counter() - begin
        load.over.set()
        del load


def _end(layers: Layers, queue: SimpleQueue[_Load | None], thread: threading.Thread) -> None:
    queue.put(None)
    layers.interrupt()
    if thread is not threading.current_thread():  # garbage is collected wherever it is found
        thread.join()
    layers.close()


class CopyStream:
    """A link to an accelerator: copies on a stream of their own, ordered by events.

    The host never waits. Computation waits for the event of its layer's copy, a copy for the event
    of the last computation with its buffer, nothing for whole streams.

    Args:
        layers: `load` enqueues a copy on the current stream.
        buffers: on the device.
        device: an accelerator.
        backend: its module in torch (`torch.cuda`).
    """

    def __init__(
        self,
        layers: Layers,
        buffers: Sequence[Tensor],
        device: torch.device,
        backend: Any = None,
    ) -> None:
        self._backend = backend or torch.get_device_module(device)
        self._layers, self._buffers, self._device = layers, buffers, device
        self._copies = self._backend.Stream(device)
        self._ready = [self._backend.Event() for _ in buffers]
        self._free = [self._backend.Event() for _ in buffers]
        self._timed: deque[tuple[Any, Any]] = deque()
        self._nbytes, self._seconds = 0, 0.0

    def begin(self, layer: int, buffer: int) -> None:
        """Enqueue the copy."""
        start, end = (self._backend.Event(enable_timing=True) for _ in range(2))
        with self._backend.stream(self._copies):
            self._copies.wait_event(self._free[buffer])
            start.record(self._copies)
            self._layers.load(layer, self._buffers[buffer])
            end.record(self._copies)
            self._ready[buffer].record(self._copies)
        self._nbytes += self._layers.sizes[layer]
        self._timed.append((start, end))
        while self._timed and self._timed[0][1].query():
            self._settle()

    def wait(self, buffer: int) -> None:
        """Let the current stream wait for the copy."""
        self._backend.current_stream(self._device).wait_event(self._ready[buffer])

    def free(self, buffer: int) -> None:
        """Mark where the current stream leaves the buffer."""
        self._free[buffer].record(self._backend.current_stream(self._device))

    def drain(self) -> None:
        """Nothing to do: copies are over before later ones of the same stream begin."""

    def moved(self) -> tuple[int, float]:
        """Return bytes copied and the seconds that took, those still running included."""
        while self._timed:
            self._timed[0][1].synchronize()
            self._settle()
        return self._nbytes, self._seconds

    def close(self) -> None:
        """Wait for the copies that run."""
        with contextlib.suppress(RuntimeError):  # the device may be gone at exit
            self._copies.synchronize()
        self._layers.close()

    def _settle(self) -> None:
        start, end = self._timed.popleft()
        self._seconds += start.elapsed_time(end) / 1000


def _room(size: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return aligned_bytes(size)
    with torch.inference_mode(False):
        return torch.empty(size, dtype=torch.uint8, device=device)
