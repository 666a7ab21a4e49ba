"""The exam of `drafting=specinfer` on a GPU."""

import pytest
import torch
from fivefold_speculative.testing import CudaSuite

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestSpecInfer(CudaSuite):
    overrides = ["drafting=specinfer", "drafting.widths=[2,1]"]


class TestSeveralDrafts(CudaSuite):
    overrides = ["drafting=specinfer", "drafting.widths=[2,1]", "drafting.drafts=[toy-1,toy-2]"]
