"""The command line on the real 135M-parameter model."""

import json

import pytest

pytestmark = pytest.mark.model
PROMPTS = (
    {"id": "chat", "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
    {"id": "list", "prompt": "List ten fruits, one a line, then list them again backwards."},
    {"id": "code", "prompt": "def fibonacci(n):\n"},
    {"id": "long", "prompt": "The quick brown fox jumps over the lazy dog. " * 12},
)
METHODS = {
    "prompt_lookup": ["drafting=prompt_lookup"],
    "chain": ["drafting=chain"],
    "expansion": ["drafting=expansion", "drafting.widths=[3,2]"],
    "feature_head": ["drafting=feature_head", "drafting.widths=[2,1,1]"],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Plain decoding's answers, made once."""
    return {}


def token_ids(fivefold, tmp_path, *words):
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    ended = fivefold("generate", "input=in.jsonl", "max_new_tokens=24", "batch_size=4", *words)
    assert ended.status == 0, ended.err
    return {row["id"]: row["token_ids"] for row in ended.result["rows"]}


@pytest.mark.parametrize("method", METHODS)
def test_greedy_text_of_every_method_is_that_of_plain_decoding(fivefold, tmp_path, plain, method):
    if not plain:
        plain |= token_ids(fivefold, tmp_path)
    assert token_ids(fivefold, tmp_path, *METHODS[method]) == plain


def test_text_of_plain_decoding_is_that_of_transformers(fivefold):
    from fivefold_lm import ModelConfig, load_model

    model = load_model(ModelConfig())
    ended = fivefold("generate", "prompt=Why is the sky blue?", "max_new_tokens=16")
    (row,) = ended.result["rows"]
    import torch

    ids = torch.tensor([model.encode("Why is the sky blue?")])
    expected = model.module.generate(ids, max_new_tokens=16, do_sample=False)
    assert row["token_ids"] == expected[0, ids.shape[1] :].tolist()


def test_demo_ends_with_identical_texts(fivefold):
    ended = fivefold("demo", "max_new_tokens=24")
    assert ended.status == 0, ended.err
    assert "identical to plain decoding: yes" in ended.out
