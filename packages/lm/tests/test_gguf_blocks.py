"""A GGUF file run from its own blocks is the model that transformers makes floats of."""

import gguf
import pytest
import torch
from fivefold import UserError
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import FullAttention, KVCache, ModelConfig, TreeForward, load_model
from fivefold_lm.kernels import is_rounded, speedup_of
from fivefold_lm.packed import BlockEmbedding, BlockLinear, stock_products, weight_rows
from fivefold_lm.testing import tiny_model

from .conftest import write_gguf

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")

Q4_1, Q8_0 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
Q5_0 = gguf.GGMLQuantizationType.Q5_0


@pytest.fixture(scope="module")
def wide_model():
    """A model whose matrices are whole blocks of 32 inputs."""
    return tiny_model("llama", vocab=40, tie_word_embeddings=True, **WIDE)


WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}


@pytest.fixture(scope="module", params=[Q4_1, Q8_0], ids=lambda kind: kind.name)
def quantised(request, wide_model, tmp_path_factory):
    return write_gguf(wide_model, tmp_path_factory.mktemp("q") / "tiny.gguf", request.param)


def scored(model, tokens):
    forward = TreeForward(model.module, FullAttention())
    cache = KVCache.for_module(model.module, 1, tokens.shape[1])
    depths = torch.arange(tokens.shape[1])[None]
    seen = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    return forward(cache, tokens, depths, seen).logits


def test_blocks_hold_the_numbers_that_transformers_reads_from_the_file(quantised, monkeypatch):
    own = load_model(ModelConfig(name=str(quantised), weights="file"))
    floats = load_model(ModelConfig(name=str(quantised), kernels="torch"))
    assert is_rounded(own.module)
    layers = [n for n, m in own.module.named_modules() if isinstance(m, BlockLinear)]
    assert len(layers) == 7 * own.module.config.num_hidden_layers + 1
    for name in [*layers, "model.embed_tokens"]:
        mine = own.module.get_submodule(name).weight
        assert torch.allclose(mine, floats.module.get_submodule(name).weight, atol=1e-6), name
    tokens = torch.arange(12)[None] * 7 % 40
    with torch.no_grad():
        wanted = floats.module(tokens).logits
        with stock_products(own.module):
            monkeypatch.setattr(BlockLinear, "_is_rounded", lambda _: False)  # nor its inputs
            assert torch.allclose(own.module(tokens).logits, wanted, atol=1e-4)
        by_layers = own.module(tokens).logits  # transformers' layers, with packed products
    got = scored(own, tokens)
    assert (got - by_layers).abs().max() <= 0.03 * by_layers.abs().max()


def test_model_without_a_native_pass_runs_layer_by_layer(quantised, monkeypatch):
    config, tokens = ModelConfig(name=str(quantised), weights="file"), torch.arange(12)[None]
    wanted = scored(load_model(config), tokens)
    monkeypatch.setattr("fivefold_lm.kernels.why_no_pass", lambda _: "no pass")
    model = load_model(config)
    assert speedup_of(model.module).decoder is None
    assert speedup_of(model.module).why_not == "no pass"
    assert (scored(model, tokens) - wanted).abs().max() <= 0.03 * wanted.abs().max()


def test_no_float_of_a_matrix_is_kept(quantised):
    module = load_model(ModelConfig(name=str(quantised), weights="file")).module
    assert isinstance(module.get_input_embeddings(), BlockEmbedding)
    assert all(weight.ndim == 1 for weight in module.parameters())
    assert speedup_of(module).decoder is not None
    rows = torch.tensor([3, 0, 39])
    head = module.get_output_embeddings()
    assert torch.equal(weight_rows(head, rows), head.weight[rows])


def test_same_file_has_the_same_fingerprint_and_another_has_not(quantised, wide_model, tmp_path):
    config = ModelConfig(name=str(quantised), weights="file")
    assert load_model(config).fingerprint == load_model(config).fingerprint
    other = tiny_model("llama", vocab=40, tie_word_embeddings=True, seed=5, **WIDE)
    path = write_gguf(other, tmp_path / "other.gguf", Q8_0)
    assert load_model(ModelConfig(name=str(path), weights="file")).fingerprint != (
        load_model(config).fingerprint
    )


def test_blocks_of_unknown_kinds_are_held_as_floats_and_said(wide_model, tmp_path):
    path, said = write_gguf(wide_model, tmp_path / "tiny.gguf", Q5_0), []
    own = load_model(ModelConfig(name=str(path), weights="file"), said.append)
    assert "blocks of kind Q5_0 have no kernel and are held as floats" in said
    floats = load_model(ModelConfig(name=str(path), kernels="torch"))
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.allclose(scored(own, tokens), floats.module(tokens).logits, atol=1e-4)


def test_what_has_no_blocks_is_refused(model_folder, quantised, wide_model, tmp_path):
    def refusal(**settings):
        with pytest.raises(UserError) as caught:
            load_model(ModelConfig(weights="file", **settings))
        return str(caught.value)

    assert "only a GGUF file has blocks of its own" in refusal(name=str(model_folder))
    assert "model.kernels=auto" in refusal(name=str(quantised), kernels="torch")
    strange = write_gguf(wide_model, tmp_path / "s.gguf", Q8_0, architecture="mamba")
    assert "GGUF files of architecture mamba" in refusal(name=str(strange))
