"""Decoding over passes in static shapes, as on a GPU: the same texts and caches."""

import os
import subprocess
import sys

import pytest
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import Replays, run_statically
from fivefold_speculative import Request
from fivefold_speculative.choosing import choose
from fivefold_speculative.engine import Engine
from fivefold_speculative.state import DecodeState
from fivefold_speculative.testing import DrafterSuite
from fivefold_speculative.toy import ToyDrafts, toy_target


class StaticSuite(DrafterSuite):
    """Target and drafts run by replayed passes.

    Laws follow from logits alone: the many samples that they take are left to the other suites.
    """

    replays = None
    test_law_of_one_token_is_the_targets = None
    test_joint_law_of_three_tokens_is_the_targets = None
    test_joint_law_under_a_cut_sampler_is_the_targets = None

    def target(self, eos=False):
        model = super().target(eos)
        self.replays = Replays()
        run_statically(model.module, self.replays)
        return model

    def session(self, *args, model=None, **options):
        model = model or self.target()
        session = super().session(*args, model=model, **options)
        load = ToyDrafts(model)

        def load_static(name, kind):
            draft = load(name, kind)
            run_statically(draft.module, Replays())
            return draft

        session.load_draft = load_static
        return session

    def teardown_method(self):
        assert self.replays is None or self.replays.replayed > 0


class TestNone(StaticSuite):
    overrides = ["drafting=none"]


class TestExpansion(StaticSuite):
    overrides = ["drafting=expansion", "drafting.widths=[3,2]"]


class TestFeatureHead(StaticSuite):
    overrides = ["drafting=feature_head", "drafting.widths=[2,1]"]


INTERPRETED = """
import torch
from fivefold_kernels.decoder.gpu import triton_operations
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import Replays, run_statically
from fivefold_speculative import Request
from fivefold_speculative.choosing import choose
from fivefold_speculative.engine import Engine
from fivefold_speculative.toy import ToyDrafts, toy_target

model, prompts = toy_target(), [[5, 3, 2, 7], [1]]
wanted = [
    model.module.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
        max_new_tokens=9, eos_token_id=None, pad_token_id=0,
    )[0, len(prompt):].tolist()
    for prompt in prompts
]
run_statically(model.module, Replays(), triton_operations())
for method, values in (("none", {}), ("expansion", {"widths": [2, 2]})):
    choice = choose("drafting", method, values)
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    engine = Engine(model, FullAttention(), sampler, choice.build, drafts=ToyDrafts(model))
    batch = engine.batch([Request(prompt, 9) for prompt in prompts], text=False)
    list(batch.steps())
    assert [record.tokens for record in batch.session.records] == wanted, method
"""


def test_greedy_text_by_tritons_kernels_is_that_of_transformers():
    """Interpreted, in a process that knows it before Triton is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_step_brings_nothing_to_the_device_until_a_row_ends(monkeypatch):
    """What is copied there waits for it; `active` stays the very tensor it was."""
    seen, after = [], DecodeState.after

    def noted(self, outcome):
        state = after(self, outcome)
        seen.append((state.active is self.active, outcome.active.tolist()))
        return state

    monkeypatch.setattr(DecodeState, "after", noted)
    model = toy_target()
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    engine = Engine(model, FullAttention(), sampler, choose("drafting", "none", {}).build)
    batch = engine.batch([Request([5, 3], 2), Request([1, 2], 4)], text=False)
    list(batch.steps())
    assert [kept for kept, _ in seen] == [True, False, False, False]
    assert [active for _, active in seen] == [[True] * 2, [False, True], [False, True], [False] * 2]
