"""Merged trees on a target whose layers are streamed: the answers of the resident model."""

import pytest
from fivefold_speculative.testing_streamed import (
    KERNELS,
    STREAMED,
    answered,
    assert_same_answers,
    save_noisy,
)

SETTINGS = {
    "one draft": ("drafting.draft={near}",),
    "two drafts": ("drafting.drafts=[{near},{{draft: {far}, temperature: 0.7}}]",),
    "a budget": ("drafting.drafts=[{near},{far}]", "drafting.max_verify_tokens=9"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return where a tiny target lies, and the same one with some and more noise as its drafts."""
    root = tmp_path_factory.mktemp("tiny")
    save_noisy(root, ("target", "near", "far"))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the user's own cache out."""
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))


@pytest.mark.parametrize("where", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_bitwise_those_of_the_resident_model(
    folders, where, temperature, settings, monkeypatch
):
    monkeypatch.setattr("fivefold_lm.loading.require_device", lambda *_: None)  # host to host
    drafts = {"near": folders / "near", "far": folders / "far"}
    given = ["drafting=specinfer", "drafting.widths=[2,1,1]"]
    given += [each.format(**drafts) for each in SETTINGS[settings]]
    given += [KERNELS[where], f"sampling.temperature={temperature}"]
    resident = answered(folders / "target", *given)
    assert_same_answers(resident, answered(folders / "target", *given, *STREAMED[where]))
