"""A planned tree on a target whose layers are streamed: the answers of the resident model."""

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
    "planned": ("drafting.nodes=8", "drafting.acceptance=fallback"),
    "planned anew": (
        "drafting.nodes=6",
        "drafting.acceptance=fallback",
        "drafting.replan_every=1",
        "drafting.replan=1e-9",
    ),
    "measured": ("drafting.nodes=8", "drafting.width=4"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return where a tiny target lies, and the same one with noise on its weights as its draft."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(vocab=24)
    for name in ("target", "draft"):
        model.module.save_pretrained(root / name)
        model.tokenizer.save_pretrained(root / name)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in model.module.parameters():
                weight.data += 0.1 * weight.data.std() * torch.randn_like(weight)
    return root


def answered(folders, *overrides):
    words = [f"model={folders / 'target'}", "prompt=abcab", "max_new_tokens=16", "num_samples=3"]
    words += [
        "batch_size=3",
        "logprobs=2",
        "drafting=sequoia",
        f"drafting.draft={folders / 'draft'}",
    ]
    run = compose("generate", [*words, *overrides])
    generate(run.config, run)
    return run.result


@pytest.mark.parametrize("where", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_bitwise_those_of_the_resident_model(
    folders, tmp_path, where, temperature, settings, monkeypatch
):
    """What is measured is measured on each: nothing is remembered from one to the other."""
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)  # host to host
    given = [*SETTINGS[settings], KERNELS[where], f"sampling.temperature={temperature}"]
    resident = answered(folders, *given)
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "another"))
    streamed = answered(folders, *given, *STREAMED[where])
    assert streamed.environment["offload_streamed_layers"] == 3
    assert streamed.rows == resident.rows
    assert sum(row["num_accepted_draft_tokens"] for row in resident.rows) > 0
