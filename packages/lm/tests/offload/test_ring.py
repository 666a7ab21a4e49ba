"""The ring loads ahead, never into a buffer in use, and never hides an error."""

import gc
import threading
import time
import weakref
from itertools import pairwise

import pytest
import torch
from fivefold_lm.offload.ring import CopyStream, LayerStreamer, evenly
from fivefold_lm.offload.storage import PAGE

CPU = torch.device("cpu")


class SlowLayers:
    """Layers of host memory whose copies take time and arrive byte by byte, last half late."""

    def __init__(self, count=7, delay=0.004, size=PAGE):
        self.sizes = [size] * count
        self.delay = delay
        self.loads = []
        self.error_at = None
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def load(self, layer, buffer):
        self.gate.wait()
        self.loads.append(layer)
        if self.error_at == len(self.loads) - 1:
            raise OSError("the disk is gone")
        half = self.sizes[layer] // 2
        time.sleep(self.delay / 2)
        buffer[:half] = layer + 1
        time.sleep(self.delay / 2)
        buffer[half:] = layer + 1

    def interrupt(self):
        self.gate.set()

    def close(self):
        self.closed = True


def run_pass(streamer, compute=0.0, stop_at=None):
    """Read each layer's bytes at the beginning and at the end of its computation."""
    streamer.begin()
    for layer in range(streamer.count):
        buffer = streamer.acquire(layer)
        seen = streamer.resident[layer] if buffer is None else streamer.buffers[buffer]
        assert bool((seen == layer + 1).all()), f"layer {layer} is read before its copy is done"
        if layer == stop_at:
            raise KeyboardInterrupt
        time.sleep(compute)
        assert bool((seen == layer + 1).all()), f"layer {layer} is overwritten while in use"
        streamer.release(layer)
    streamer.end()


def eventually(holds):
    for _ in range(500):
        if holds():
            break
        time.sleep(0.01)
    assert holds()


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
@pytest.mark.parametrize("n_resident", [0, 1, 3, 5])
@pytest.mark.parametrize(("delay", "compute"), [(0.004, 0.0), (0.0, 0.003), (0.002, 0.002)])
def test_no_buffer_is_read_early_or_overwritten_in_use(n_buffers, n_resident, delay, compute):
    layers = SlowLayers(delay=delay)
    streamer = LayerStreamer(layers, n_resident, n_buffers, CPU)
    for _ in range(3):
        run_pass(streamer, compute)
    assert streamer.done().passes == 3
    streamer.close()


def test_the_check_above_fails_for_a_ring_that_waits_for_nothing(monkeypatch):
    monkeypatch.setattr("fivefold_lm.offload.ring.ReaderThread.wait", lambda self, buffer: None)
    streamer = LayerStreamer(SlowLayers(), 0, 2, CPU)
    with pytest.raises(AssertionError, match="before its copy is done"):
        run_pass(streamer)
    streamer.close()


def test_the_check_above_fails_for_a_ring_that_refills_too_early(monkeypatch):
    right = LayerStreamer.acquire

    def acquire(self, layer):
        buffer = right(self, layer)
        self._used += 1  # as if the layer had been released already
        self._fill()
        self._used -= 1
        return buffer

    monkeypatch.setattr(LayerStreamer, "acquire", acquire)
    streamer = LayerStreamer(SlowLayers(delay=0.001), 0, 2, CPU)
    with pytest.raises(AssertionError, match="overwritten while in use"):
        run_pass(streamer, compute=0.05)
    streamer.close()


def test_layers_that_stay_are_loaded_once_and_the_others_in_their_order():
    layers = SlowLayers(count=6)
    streamer = LayerStreamer(layers, 2, 2, CPU)
    for _ in range(2):
        run_pass(streamer)
    stay = sorted(set(range(6)) - streamer.streamed)
    order = sorted(streamer.streamed)
    streamer.close()
    assert layers.loads[:2] == stay
    assert layers.loads[2 : 2 + 2 * len(order)] == order * 2


def test_the_first_layers_of_the_next_pass_load_while_nobody_computes():
    layers = SlowLayers(count=5)
    streamer = LayerStreamer(layers, 0, 2, CPU)
    run_pass(streamer)
    eventually(lambda: layers.loads == [0, 1, 2, 3, 4, 0, 1])  # somebody drafts
    layers.gate.clear()  # the disk stands still: what is there already must do
    streamer.begin()
    for layer in (0, 1):
        assert streamer.acquire(layer) == (5 + layer) % 2
        streamer.release(layer)
    layers.gate.set()
    streamer.close()


def test_prefetch_begins_before_the_first_pass_and_changes_nothing_later():
    layers = SlowLayers(count=4)
    streamer = LayerStreamer(layers, 0, 2, CPU)
    assert layers.loads == []
    streamer.prefetch()
    streamer.prefetch()
    eventually(lambda: layers.loads == [0, 1])
    run_pass(streamer)
    assert layers.loads[:4] == [0, 1, 2, 3]
    streamer.close()


def test_an_interrupted_pass_is_forgotten():
    layers = SlowLayers()
    streamer = LayerStreamer(layers, 2, 2, CPU)
    for stop_at in range(7):
        with pytest.raises(KeyboardInterrupt):
            run_pass(streamer, stop_at=stop_at)
        run_pass(streamer)
    assert streamer.done().passes == 7
    streamer.close()


@pytest.mark.parametrize("error_at", [0, 3, 6])
def test_an_error_of_a_load_is_the_error_of_its_pass_and_the_next_pass_tries_again(error_at):
    layers = SlowLayers(count=4)
    layers.error_at = error_at
    streamer = LayerStreamer(layers, 0, 2, CPU)
    for _ in range(error_at // 4):
        run_pass(streamer)
    with pytest.raises(OSError, match="the disk is gone"):
        run_pass(streamer)
    for _ in range(2):
        run_pass(streamer)
    streamer.close()


def test_layers_are_counted():
    streamer = LayerStreamer(SlowLayers(count=4), 0, 2, CPU)
    streamer.begin()
    streamer.acquire(0)
    streamer.release(0)
    with pytest.raises(RuntimeError, match="layer 2 runs where layer 1 should"):
        streamer.acquire(2)
    with pytest.raises(RuntimeError, match="1 of 4 layers ran"):
        streamer.end()
    streamer.close()


def test_without_buffers_everything_stays_and_nothing_runs_beside():
    layers = SlowLayers(count=3)
    before = threading.active_count()
    streamer = LayerStreamer(layers, 3, 0, CPU)
    assert threading.active_count() == before
    run_pass(streamer)
    streamer.prefetch()
    assert layers.loads == [0, 1, 2]
    assert layers.closed
    assert streamer.done()[:2] == (1, 0)
    with pytest.raises(ValueError, match="1 layers are streamed through no buffer"):
        LayerStreamer(SlowLayers(count=3), 2, 0, CPU)


def test_the_thread_ends_with_its_owner():
    layers = SlowLayers()
    streamer = LayerStreamer(layers, 0, 2, CPU)
    run_pass(streamer)
    (thread,) = [t for t in threading.enumerate() if t.name == "fivefold-layers"]
    gone = weakref.ref(streamer)
    del streamer
    gc.collect()
    assert gone() is None
    thread.join(2)
    assert not thread.is_alive()
    assert layers.closed


def test_what_was_streamed_is_counted():
    layers = SlowLayers(count=4)
    streamer = LayerStreamer(layers, 1, 2, CPU)
    for _ in range(3):
        run_pass(streamer)
    streamer.close()
    done = streamer.done()
    assert streamer.bytes_per_pass == 3 * PAGE
    assert done.nbytes == (len(layers.loads) - 1) * PAGE
    assert done.t_stream >= 9 * layers.delay
    assert done.t_wait > 0


@pytest.mark.parametrize(("count", "chosen"), [(30, 11), (30, 26), (7, 3), (5, 5), (4, 0), (1, 1)])
def test_streamed_layers_lie_evenly_also_across_passes(count, chosen):
    streamed = sorted(evenly(count, chosen))
    assert len(streamed) == chosen
    if chosen:
        around = [*streamed, streamed[0] + count]
        gaps = [b - a for a, b in pairwise(around)]
        assert max(gaps) - min(gaps) <= 1


class FakeStream:
    """A stream of an accelerator: a thread that does what is enqueued, in order."""

    def __init__(self, device=None):
        self.todo = []
        self.wake = threading.Condition()
        self.busy = False
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, work):
        with self.wake:
            self.todo.append(work)
            self.wake.notify_all()

    def wait_event(self, event):
        over = event.over  # the record that counts is the last one before the wait
        self.put(lambda: over is None or over.wait())

    def synchronize(self):
        with self.wake:
            self.wake.wait_for(lambda: not self.todo and not self.busy, timeout=5)

    def _serve(self):
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.todo)
                work, self.busy = self.todo.pop(0), True
            work()
            with self.wake:
                self.busy = False
                self.wake.notify_all()


class FakeEvent:
    def __init__(self, enable_timing=False):
        self.over = None
        self.at = 0.0

    def record(self, stream):
        over = self.over = threading.Event()

        def reached():
            self.at = time.perf_counter()
            over.set()

        stream.put(reached)

    def query(self):
        return self.over.is_set()

    def synchronize(self):
        self.over.wait()

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


class FakeBackend:
    """What torch.cuda offers, on threads: everything is enqueued, nothing has happened yet."""

    Stream, Event = FakeStream, FakeEvent

    def __init__(self):
        self.main = self.now = FakeStream()

    def current_stream(self, device):
        return self.now

    def stream(self, chosen):
        outer = self

        class Chosen:
            def __enter__(self):
                self.before, outer.now = outer.now, chosen

            def __exit__(self, *_):
                outer.now = self.before

        return Chosen()


@pytest.mark.parametrize(
    ("copy", "compute", "lost"),
    [
        (0.004, 0.0, ""),
        (0.0, 0.004, ""),
        (0.002, 0.002, ""),
        (0.004, 0.0, "wait"),
        (0.0, 0.004, "free"),
    ],
)
def test_copies_and_computation_on_streams_are_ordered_by_events(monkeypatch, copy, compute, lost):
    """`lost` leaves out one kind of event: then the check must fail."""
    backend = FakeBackend()
    slow = SlowLayers(count=5, delay=copy)
    wrong = []

    class Enqueued:
        sizes = slow.sizes

        def load(self, layer, buffer):
            backend.now.put(lambda: slow.load(layer, buffer))

        def interrupt(self):
            slow.interrupt()

        def close(self):
            slow.close()

    if lost:
        monkeypatch.setattr(CopyStream, lost, lambda self, buffer: None)
    streamer = LayerStreamer(
        Enqueued(), 0, 2, CPU, link=lambda *given: CopyStream(*given, backend=backend)
    )

    def work(layer, buffer):
        for pause in (0, compute):
            time.sleep(pause)
            if not bool((streamer.buffers[buffer] == layer + 1).all()):
                wrong.append(layer)

    for _ in range(3):
        streamer.begin()
        for layer in range(5):
            buffer = streamer.acquire(layer)
            backend.main.put(lambda layer=layer, buffer=buffer: work(layer, buffer))
            streamer.release(layer)
        streamer.end()
    backend.main.synchronize()
    assert bool(wrong) == bool(lost)
    done = streamer.done()
    assert done.nbytes == 17 * PAGE
    assert done.t_stream >= 15 * copy
    streamer.close()
    assert slow.closed
