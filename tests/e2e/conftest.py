"""Tiny models as folders, so that a command takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 128 characters that never ends a text by itself."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", vocab=128, seed=1)


@pytest.fixture(scope="session")
def tiny_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model over the same characters."""
    return save_tiny(tmp_path_factory.mktemp("models") / "draft", vocab=128, seed=2)


@pytest.fixture(scope="session")
def tiny_stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model over other characters."""
    return save_tiny(tmp_path_factory.mktemp("models") / "stranger", vocab=40, seed=3)


def save_tiny(folder: Path, vocab: int, seed: int) -> Path:
    """Write a tiny random model as transformers would."""
    from fivefold_lm.testing import tiny_model

    model = tiny_model(vocab=vocab, seed=seed, eos_token_id=None)
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder
