"""Real processes behind shaped links: network namespaces, a switch, one rank in each.

Each rank has its own full-duplex link of a given rate (token buckets on both ends of a veth pair).
It needs root and iproute2; where they are missing the caller simulates and says so.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fivefold_gnnpipe.engine.transport.launching import finish_ranks, start_ranks

RANK = str(Path(__file__).with_name("gnnpipe_rank.py"))
_SWITCH = "gp_sw"
_PYTHON = sys.executable


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def namespaces_work() -> bool:
    """Whether this process may make namespaces and shape links."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    try:
        with shaped(1, 100.0):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def shaped(size: int, mbit: float) -> Iterator[list[str]]:
    """Make a namespace a rank, joined by a switch, and take them away again.

    Args:
        size: ranks.
        mbit: rate of each link, each way.

    Yields:
        The namespaces' names; rank i has the address 10.99.0.(i + 1).
    """
    names = [f"gp_{rank}" for rank in range(size)]
    try:
        _remove(names)
        _ip("netns", "add", _SWITCH)
        _ip("-n", _SWITCH, "link", "add", "br0", "type", "bridge")
        _ip("-n", _SWITCH, "link", "set", "br0", "up")
        for rank, name in enumerate(names):
            here, there = f"gpv{rank}", f"gps{rank}"
            _ip("netns", "add", name)
            pair = ("type", "veth", "peer", "name", there, "netns", _SWITCH)
            _ip("link", "add", here, "netns", name, *pair)
            _ip("-n", name, "addr", "add", f"10.99.0.{rank + 1}/24", "dev", here)
            for link in ("lo", here):
                _ip("-n", name, "link", "set", link, "up")
            _ip("-n", _SWITCH, "link", "set", there, "master", "br0")
            _ip("-n", _SWITCH, "link", "set", there, "up")
            for space, link in ((name, here), (_SWITCH, there)):
                bucket = ("rate", f"{mbit:.3f}mbit", "burst", "64kb", "latency", "200ms")
                _ip(
                    "netns",
                    "exec",
                    space,
                    "tc",
                    "qdisc",
                    "add",
                    "dev",
                    link,
                    "root",
                    "tbf",
                    *bucket,
                )
        yield names
    finally:
        _remove(names)


def _remove(names: Sequence[str]) -> None:
    for name in (*names, _SWITCH):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def timed(
    case: Mapping[str, object], size: int, mbit: float | None, timeout: float
) -> dict[str, Any]:
    """Train a case on real processes and return what rank 0 reports.

    Args:
        case: what `gnnpipe_rank.py` reads.
        size: processes, one thread each.
        mbit: rate of each link; `None`: the loopback as it is.
        timeout: seconds for all of it.

    Raises:
        RuntimeError: a rank failed.
    """
    command = [_PYTHON, RANK, json.dumps(dict(case))]
    if mbit is None:
        ends = finish_ranks(start_ranks(command, size), timeout)
    else:
        with shaped(size, mbit) as names:
            before = [["ip", "netns", "exec", name] for name in names]
            environment = {"GLOO_SOCKET_IFNAME": "gpv{rank}"}
            ranks = start_ranks(
                command, size, before=before, environment=environment, address="10.99.0.1"
            )
            ends = finish_ranks(ranks, timeout)
    for status, _, err in ends:
        if status != 0:
            raise RuntimeError(err.strip()[-2000:])
    found: dict[str, Any] = json.loads(ends[0][1].splitlines()[-1])
    return found
