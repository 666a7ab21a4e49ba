"""A planned tree on a target whose layers are streamed: the answers of the resident model."""

import pytest
from fivefold_speculative.testing_streamed import (
    KERNELS,
    STREAMED,
    answered,
    assert_same_answers,
    save_noisy,
)

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
    save_noisy(root, ("target", "draft"))
    return root


@pytest.mark.parametrize("where", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_bitwise_those_of_the_resident_model(
    folders, tmp_path, where, temperature, settings, monkeypatch
):
    """What is measured is measured on each: nothing is remembered from one to the other."""
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)  # host to host
    given = ["drafting=sequoia", f"drafting.draft={folders / 'draft'}", *SETTINGS[settings]]
    given += [KERNELS[where], f"sampling.temperature={temperature}"]
    resident = answered(folders / "target", *given)
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "another"))
    assert_same_answers(resident, answered(folders / "target", *given, *STREAMED[where]))
