"""What is freed goes back: the resident memory of a process of its own."""

import platform
import subprocess
import sys

import pytest
from fivefold_mst_train.engine.heap import return_large_blocks

MIB = 1 << 20
PROGRAM = f"""
import os
import sys

import torch
from fivefold_mst_train.engine.heap import return_large_blocks


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


torch.set_num_threads(1)
if sys.argv[1] == "set":
    assert return_large_blocks()
torch.ones(30 * {MIB}, dtype=torch.uint8)  # freed: glibc's own bound rises above what follows
blocks = [torch.ones(16 * {MIB}, dtype=torch.uint8) for _ in range(16)]
full = resident()
del blocks[:-1:2]
print(full - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not sys.platform.startswith("linux"), reason="no glibc"
)
def test_blocks_between_others_go_back_to_the_system(monkeypatch):
    """And without the setting they do not, so that this can fail."""
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    returned = {
        word: int(subprocess.check_output([sys.executable, "-c", PROGRAM, word], text=True))
        for word in ("set", "left")
    }
    assert returned["set"] > 7 * 16 * MIB > 4 * 16 * MIB > returned["left"]


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert not return_large_blocks()
