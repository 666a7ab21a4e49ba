"""Every way of decoding runs on a target whose layers are streamed, and writes the same text."""

from importlib import import_module

import pytest
import torch
from fivefold import UserError
from fivefold.testing import compose
from fivefold_lm import offload_of
from fivefold_lm.config import ModelConfig
from fivefold_lm.models import load_model
from fivefold_lm.testing import tiny_model
from fivefold_speculative import draft_model
from fivefold_speculative import generate as _api  # noqa: F401 - the name is the function
from fivefold_speculative.draft_model import DraftLoader
from fivefold_speculative.drafts.feature_head import FeatureHead, save_feature_head
from fivefold_speculative.drafts.weights import DraftCard

task = import_module("fivefold_speculative.fronts")
STREAMED = ("model.offload=disk", "model.memory=96KiB")
FROM_HOST = ("model.offload=host", "model.memory=96KiB")
METHODS = {
    "none": (),
    "prompt_lookup": (),
    "chain": ("drafting.draft={draft}",),
    "expansion": ("drafting.draft={draft}", "drafting.widths=[3,2,1]"),
    "feature_head": ("drafting.draft={head}", "drafting.widths=[3,2]"),
}
SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Return the file of a feature head for the target; nobody has trained it."""
    target = tiny_model(vocab=24).module
    config = {name: getattr(target.config, name) for name in SHAPE} | {"num_hidden_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = FeatureHead(config, torch.arange(23), target)
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_feature_head(made, path, DraftCard("feature_head", "tiny", config, vocab_size=23))
    return path


def answered(folders, *overrides):
    target = folders / "target"
    run = compose("generate", [f"model={target}", "prompt=abcab", "max_new_tokens=16", *overrides])
    task.generate(run.config, run)
    return run


def settings_of(method, temperature, folders, head):
    settings = [each.format(draft=folders / "draft", head=head) for each in METHODS[method]]
    settings += [f"drafting={method}", f"sampling.temperature={temperature}"]
    return [*settings, "num_samples=3", "logprobs=2"]


def assert_same_answers(resident, streamed):
    """Compare tokens, what was accepted, and the logarithms of probabilities, bit for bit."""
    assert streamed.result.rows == resident.result.rows
    assert all(row["token_ids"] and row["logprobs"] for row in resident.result.rows)
    assert streamed.result.environment["offload_streamed_layers"] == 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_the_resident_models_text(folders, head, method, temperature):
    settings = settings_of(method, temperature, folders, head)
    assert_same_answers(answered(folders, *settings), answered(folders, *settings, *STREAMED))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_the_resident_models_text_from_host_memory(
    folders, head, method, temperature, monkeypatch
):
    """As on an accelerator, but that the layers are copied from host memory to host memory."""
    settings = settings_of(method, temperature, folders, head)
    # Stock kernels, which are what streams from there; their products of a single row have bits
    # that depend on where in memory the weights lie.
    settings += ["model.kernels=torch", "batch_size=3"]
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)
    streamed = answered(folders, *settings, *FROM_HOST)
    assert streamed.result.environment["offload"] == "host"
    assert_same_answers(answered(folders, *settings), streamed)


def test_figures_and_environment_say_what_was_streamed(folders):
    streamed, resident = answered(folders, *STREAMED).result, answered(folders).result
    names = {"stream_bytes_per_pass", "stream_rate", "t_stream", "t_stream_wait"}
    assert names <= streamed.figures.keys()
    assert not names & resident.figures.keys()
    assert (
        streamed.figures["stream_bytes_per_pass"]
        == (streamed.environment["offload_bytes_per_pass"])
    )
    assert streamed.environment["offload"] == "disk"
    assert "offload" not in resident.environment


def test_a_profile_of_a_streamed_target_is_refused(folders):
    overrides = [f"model={folders / 'target'}", "methods=[prompt_lookup]", "profile=true"]
    run = compose("bench", [*overrides, *STREAMED])
    with pytest.raises(UserError, match=r"the target's are streamed.*set model\.offload=none"):
        task.bench(run.config, run)


def test_a_draft_of_a_streamed_target_stays(folders, monkeypatch):
    config = ModelConfig(
        name=str(folders / "target"), offload="disk", memory="96KiB", disk_rate=50.0
    )
    target = load_model(config)
    assert offload_of(target.module) is not None
    seen = []

    def load(config, say):
        seen.append(config)
        return load_model(config, say)

    monkeypatch.setattr(draft_model, "load_model", load)
    draft = DraftLoader(target, config).load_model(str(folders / "draft"))
    assert offload_of(draft.module) is None
    assert [(c.offload, c.memory, c.disk_rate) for c in seen] == [("none", "", 0.0)]
    assert tiny_model(vocab=24).vocab_size == draft.vocab_size
