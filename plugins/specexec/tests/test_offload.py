"""Large trees on a target whose layers are streamed: its answers, and what is read meanwhile."""

import time

import pytest
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import (
    FullAttention,
    ModelConfig,
    Sampler,
    SamplingConfig,
    load_model,
    offload_of,
)
from fivefold_lm.testing import tiny_model
from fivefold_specexec import SpecExecConfig
from fivefold_specexec.drafter import build
from fivefold_speculative import DraftLoader, Request, Session
from fivefold_speculative.checks import run_to_end
from fivefold_speculative.testing_streamed import (
    KERNELS,
    STREAMED,
    answered,
    assert_same_answers,
    save_noisy,
)

METHOD = ("drafting=specexec", "drafting.budget=8")
SETTINGS = {
    "whole head": (),
    "head in chunks": ("drafting.lm_head_chunk=3",),
    "known noise": ("drafting.logit_error=0.5",),
}
PATIENCE = 10.0
"""Seconds that reading two small layers takes in no case."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return where a tiny target lies, one with noise on its weights, and one to be quantised."""
    root = tmp_path_factory.mktemp("tiny")
    save_noisy(root, ("target", "draft"))
    wide = tiny_model(vocab=32, hidden_size=64, intermediate_size=96)
    wide.module.save_pretrained(root / "wide")
    wide.tokenizer.save_pretrained(root / "wide")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the user's own cache out."""
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("where", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_bitwise_those_of_the_resident_model(
    folders, where, temperature, settings, monkeypatch
):
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)  # host to host
    given = [*METHOD, *SETTINGS[settings], KERNELS[where], f"sampling.temperature={temperature}"]
    given += [f"drafting.draft={folders / 'draft'}"]
    resident = answered(folders / "target", *given)
    assert_same_answers(resident, answered(folders / "target", *given, *STREAMED[where]))


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_copy_in_fewer_bits_of_a_streamed_target_drafts_as_that_of_the_resident_one(
    folders, tmp_path, temperature, monkeypatch
):
    """Each makes its own copy; copies that differ would draft, and stand, elsewhere."""
    given = [*METHOD, "drafting.draft=quantised", "drafting.bits=4"]
    given += [f"sampling.temperature={temperature}"]
    resident = answered(folders / "wide", *given)
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "another"))
    streamed = ["model.offload=disk", "model.memory=300KiB"]
    assert_same_answers(resident, answered(folders / "wide", *given, *streamed))


def test_first_layers_of_the_target_are_read_before_the_draft_begins_a_step(folders):
    """No pass has read the prompt of one token: before the first step nothing else would read."""
    config = ModelConfig(name=str(folders / "target"), offload="disk", memory="96KiB")
    model = load_model(config)
    streamer = offload_of(model.module).streamer
    ahead = 2 * streamer.bytes_per_pass // 3  # two of three layers: as many as there are buffers
    session = Session(
        model,
        [Request([2], 12)],
        Sampler(SamplingConfig(), vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
        load_draft=DraftLoader(model, config),
    )
    drafter = build(SpecExecConfig(draft=str(folders / "draft"), budget=6), session)
    run, read = drafter._run, {}

    def watched(*args):
        done = streamer.done()
        if done.passes not in read:  # the draft's first pass of this step
            before, end = done.passes * streamer.bytes_per_pass, time.monotonic() + PATIENCE
            while streamer.done().nbytes < before + ahead and time.monotonic() < end:
                time.sleep(0.001)
            read[done.passes] = streamer.done().nbytes - before
        return run(*args)

    drafter._run = watched
    (record,) = run_to_end(session, drafter, "auto")
    assert record.num_spec_steps > 2
    assert read == dict.fromkeys(range(record.num_spec_steps), ahead)
