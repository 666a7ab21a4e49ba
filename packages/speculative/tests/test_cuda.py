"""The exam of drafters on a GPU."""

import pytest
import torch
from fivefold_speculative.testing import CudaSuite

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestNone(CudaSuite):
    overrides = ["drafting=none"]


class TestPromptLookup(CudaSuite):
    overrides = ["drafting=prompt_lookup"]


class TestExpansion(CudaSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]"]


class TestFeatureHead(CudaSuite):
    overrides = ["drafting=feature_head", "drafting.widths=[2,1]"]
