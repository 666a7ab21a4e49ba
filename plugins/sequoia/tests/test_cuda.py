"""The exam of `drafting=sequoia` on a GPU."""

import pytest
import torch
from fivefold_speculative.testing import CudaSuite

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestSequoia(CudaSuite):
    overrides = ["drafting=sequoia", "drafting.nodes=6", "drafting.acceptance=fallback"]


class TestSequoiaThatPlansAnew(CudaSuite):
    overrides = [
        "drafting=sequoia",
        "drafting.nodes=6",
        "drafting.acceptance=fallback",
        "drafting.replan=0.01",
    ]
