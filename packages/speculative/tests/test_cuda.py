"""The exam of drafters on a GPU: Triton's kernels, recorded passes, and nothing that stands in."""

import pytest
import torch
from fivefold_kernels.decoder.gpu import triton_operations
from fivefold_lm.static import cuda_recorder
from fivefold_lm.testing import run_statically
from fivefold_speculative.testing import DrafterSuite
from fivefold_speculative.toy import ToyDrafts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def fast(module):
    """Move a module to the GPU and let it run as a user's does there."""
    module.to("cuda")
    done = run_statically(module, cuda_recorder(module), triton_operations(), pytest.fail)
    return done.decoder


class CudaSuite(DrafterSuite):
    """Target and drafts run by Triton's kernels in CUDA graphs; none may fail to be recorded."""

    samples = 5_000
    decoder = None

    def target(self, eos=False):
        model = super().target(eos)
        self.decoder = fast(model.module)
        return model

    def session(self, *args, model=None, **options):
        model = model or self.target()
        session = super().session(*args, model=model, **options)
        load = ToyDrafts(model)

        def load_fast(name, kind):
            draft = load(name, kind)
            fast(draft.module)
            return draft

        session.load_draft = load_fast
        return session

    def teardown_method(self):
        assert self.decoder is None or len(self.decoder.graphs) > 0


class TestNone(CudaSuite):
    overrides = ["drafting=none"]


class TestPromptLookup(CudaSuite):
    overrides = ["drafting=prompt_lookup"]


class TestExpansion(CudaSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]"]


class TestFeatureHead(CudaSuite):
    overrides = ["drafting=feature_head", "drafting.widths=[2,1]"]
