"""The kernels are compiled once for a test run, for every instruction set of this processor.

Those for a GPU are interpreted where there is none; Triton has to know before it is imported.
"""

import os
from pathlib import Path

import pytest
import torch
from fivefold_kernels.native.library import cpu_library, has_compiler
from fivefold_kernels.native.machine import runs_here

if not torch.accelerator.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """One folder of compiled libraries for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    return Path(base) / "kernels"


@pytest.fixture(scope="session", params=runs_here())
def library(request, folder):
    """The kernels for one instruction set."""
    if not has_compiler():
        pytest.skip("no C++ compiler")
    return cpu_library(request.param, folder)
