"""The kernels are compiled once for a test run, for every instruction set of this processor.

AMX, which few machines have, is also emulated wherever the rest of that build runs.

Those for a GPU are interpreted where there is none; Triton has to know before it is imported.
"""

import os
from pathlib import Path

import pytest
import torch
from fivefold_kernels.native.library import cpu_library, has_compiler
from fivefold_kernels.native.machine import missing, runs_here

if not torch.accelerator.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """One folder of compiled libraries for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    return Path(base) / "kernels"


BUILDS = [*runs_here(), *(name for name in ("amx_emulated",) if not missing(name))]


@pytest.fixture(scope="session", params=BUILDS)
def library(request, folder):
    """The kernels for one instruction set."""
    if not has_compiler():
        pytest.skip("no C++ compiler")
    return cpu_library(request.param, folder)
