"""One rank of the transport's tests: `exchanging_rank.py CASE`, started by the test."""

import os
import signal
import sys
import time

import torch
from fivefold import UserError
from fivefold_gnnpipe.engine.transport import (
    Link,
    Traffic,
    agree,
    open_distributed,
    ring_all_reduce,
    run_rank,
)


def shift(transport, rows, rounds):
    """Send to the next rank, receive from the one before, as often as asked; then sum over all."""
    after, before = (transport.rank + 1) % transport.size, (transport.rank - 1) % transport.size
    for step in range(rounds):
        pending = transport.post(rows.shape, rows.dtype, before, Traffic.HALO, step)
        transport.send(rows, after, Traffic.HALO, step)
        rows = (yield pending) + 1
        if case == "killed" and step == 2 and transport.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if case == "silent" and step == 2 and transport.rank == 1:
            time.sleep(3600)
        if case == "refused" and step == 2 and transport.rank == 1:
            raise UserError("NaN in the features", setting="data.path")
    total = yield from ring_all_reduce(transport, rows, range(transport.size), Traffic.WEIGHT)
    transport.flush()
    return total


case = sys.argv[1]
try:
    rate = Link(8.0) if case == "throttled" else None
    transport = open_distributed("gloo", torch.device("cpu"), 5.0, rate)
    seed = transport.rank if case == "disagree" else 0
    if case == "disagree":
        agree(transport, {"training.seed": seed})
    rows = torch.arange(7.0) * (transport.rank + 1)
    if case == "throttled":
        rows = torch.zeros(250_000)
    start = time.perf_counter()
    total = run_rank(transport, shift(transport, rows, 5 if case != "throttled" else 1))
    seconds = time.perf_counter() - start
    print(transport.counters.total(), transport.counters.num_messages(), seconds)
    print(total.tolist() if total.numel() < 100 else "")
    transport.close()
except UserError as error:
    print(f"fivefold: {error}", file=sys.stderr, flush=True)
    transport.close()
    sys.exit(2)
