"""Start the ranks of one machine as torchrun would, for tests and benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start_ranks(
    command: Sequence[str],
    size: int,
    *,
    before: Sequence[Sequence[str]] | None = None,
    environment: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
) -> list[subprocess.Popen[str]]:
    """Start one process a rank, each with one thread, and return them running.

    Args:
        command: what every rank runs.
        size: the number of ranks.
        before: words before each rank's command, as `ip netns exec NAME`; none when not given.
        environment: variables beside those of the rendezvous; `{rank}` in a value is replaced.
        address: where rank 0 can be reached.
    """
    port = str(free_port())
    started = []
    for rank in range(size):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        extra = {name: text.format(rank=rank) for name, text in (environment or {}).items()}
        words = [*(before[rank] if before else []), *command]
        started.append(
            subprocess.Popen(
                words,
                env=os.environ | variables | extra,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish_ranks(
    ranks: Sequence[subprocess.Popen[str]], timeout: float
) -> list[tuple[int, str, str]]:
    """Wait for ranks and return each one's exit status, output and errors.

    Args:
        ranks: the processes; those still running at the end of the time are killed.
        timeout: seconds for all of them together.
    """
    ends = []
    for process in ranks:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in ranks:
                other.kill()
            out, err = process.communicate()
        ends.append((process.returncode, out, err))
    return ends
