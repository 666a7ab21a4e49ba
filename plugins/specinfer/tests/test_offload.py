"""Merged trees on a target whose layers are streamed: the answers of the resident model."""

import pytest
import torch
from fivefold.testing import compose
from fivefold_lm.testing import tiny_model
from fivefold_speculative.fronts import generate

STREAMED = {
    "disk": ("model.offload=disk", "model.memory=96KiB"),
    "host": ("model.offload=host", "model.memory=96KiB"),
}
KERNELS = {"disk": "model.kernels=auto", "host": "model.kernels=torch"}
SETTINGS = {
    "one draft": ("drafting.draft={near}",),
    "two drafts": ("drafting.drafts=[{near},{{draft: {far}, temperature: 0.7}}]",),
    "a budget": ("drafting.drafts=[{near},{far}]", "drafting.max_verify_tokens=9"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return where a tiny target lies, and the same one with some and more noise as its drafts."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(vocab=24)
    for name in ("target", "near", "far"):
        model.module.save_pretrained(root / name)
        model.tokenizer.save_pretrained(root / name)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in model.module.parameters():
                weight.data += 0.1 * weight.data.std() * torch.randn_like(weight)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the user's own cache out."""
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))


def answered(folders, *overrides):
    words = [f"model={folders / 'target'}", "prompt=abcab", "max_new_tokens=16", "num_samples=3"]
    words += ["batch_size=3", "logprobs=2", "drafting=specinfer", "drafting.widths=[2,1,1]"]
    run = compose("generate", [*words, *overrides])
    generate(run.config, run)
    return run.result


@pytest.mark.parametrize("where", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_bitwise_those_of_the_resident_model(
    folders, where, temperature, settings, monkeypatch
):
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)  # host to host
    drafts = {"near": folders / "near", "far": folders / "far"}
    given = [each.format(**drafts) for each in SETTINGS[settings]]
    given += [KERNELS[where], f"sampling.temperature={temperature}"]
    resident = answered(folders, *given)
    streamed = answered(folders, *given, *STREAMED[where])
    assert streamed.environment["offload_streamed_layers"] == 3
    assert streamed.rows == resident.rows
    assert sum(row["num_accepted_draft_tokens"] for row in resident.rows) > 0
