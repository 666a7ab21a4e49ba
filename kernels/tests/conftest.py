"""The kernels are compiled once for a test run, for every instruction set of this processor."""

import os
from pathlib import Path

import pytest
from fivefold_kernels.errors import UnsupportedError
from fivefold_kernels.native.library import cpu_library, find_compiler
from fivefold_kernels.native.machine import runs_here


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
    try:
        find_compiler()
    except UnsupportedError as error:
        pytest.skip(str(error))
    return cpu_library(request.param, folder)
