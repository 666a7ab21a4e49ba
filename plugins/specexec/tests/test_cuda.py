"""The exam of `drafting=specexec` on a GPU."""

import pytest
import torch
from fivefold_speculative.testing import CudaSuite

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestSpecExec(CudaSuite):
    overrides = ["drafting=specexec", "drafting.budget=6"]


class TestChunkedHead(CudaSuite):
    overrides = ["drafting=specexec", "drafting.budget=6", "drafting.lm_head_chunk=3"]
