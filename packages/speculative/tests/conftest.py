"""A tiny model, a draft for it, and a cache of their own for every test that runs a task."""

import pytest
import torch
from fivefold_lm.testing import tiny_model

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a' }}{% endif %}"
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return the folders of a tiny target and of the same one with noise on its weights."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(vocab=24)
    model.module.save_pretrained(root / "target")
    model.tokenizer.save_pretrained(root / "target")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in model.module.parameters():
            weight.data += 0.1 * weight.data.std() * torch.randn_like(weight)
    model.module.save_pretrained(root / "draft")
    model.tokenizer.save_pretrained(root / "draft")
    model.tokenizer.chat_template = TEMPLATE
    tiny_model(vocab=24).module.save_pretrained(root / "chatty")
    model.tokenizer.save_pretrained(root / "chatty")
    return root


@pytest.fixture(scope="session")
def template():
    """Return the chat template of the chatty model."""
    return TEMPLATE


@pytest.fixture(autouse=True)
def cache(request, tmp_path_factory, monkeypatch):
    """Keep the user's own cache out of the tests, but for those of the real model."""
    if "model" not in request.keywords:
        monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
