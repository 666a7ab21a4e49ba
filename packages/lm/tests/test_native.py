"""A model that runs whole passes in our kernels says what transformers says, and can be undone."""

import pytest
import torch
from fivefold import UserError
from fivefold_kernels import runs_here
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import FullAttention, KVCache, TreeForward, self_test
from fivefold_lm.kernels import choose_kernels, kernels_folder, speed_up, speedup_of
from fivefold_lm.testing import llama_family, random_module, tiny_model
from torch import nn
from transformers import (
    LlamaModel,
)

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")

FAMILY = llama_family()


def sped_up(module, name="auto", weights="float"):
    return speed_up(module, choose_kernels(name, weights, module.dtype))


def read(module, tokens, chunk=512):
    """Score every token of a text through the engine's own forward."""
    method = FullAttention()
    forward = TreeForward(module, method)
    cache = KVCache.for_module(module, 1, tokens.shape[1])
    scored = []
    for start in range(0, tokens.shape[1], chunk):
        part = tokens[:, start : start + chunk]
        nodes = part.shape[1]
        depths = torch.arange(nodes)[None]
        seen = torch.ones(1, nodes, nodes, dtype=torch.bool).tril()
        rows = forward(cache, part, depths, seen, want_hidden=True)
        cache.commit(torch.tensor([nodes]))
        scored.append(rows)
    return torch.cat([r.logits for r in scored], 1), torch.cat([r.hidden for r in scored], 1)


@pytest.mark.parametrize("kernels", runs_here())
@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_logits_and_hidden_states_are_those_of_transformers(config, kernels):
    module, tokens = random_module(config), torch.arange(150)[None] * 7 % 60
    wanted = module(tokens, output_hidden_states=True)
    done = sped_up(module, kernels)
    assert done.decoder is not None, done.why_not
    logits, hidden = read(module, tokens)
    scale = wanted.logits.abs().max()
    assert (logits - wanted.logits).abs().max() <= 1e-5 * scale
    last = wanted.hidden_states[-1]
    assert (hidden - last).abs().max() <= 1e-5 * last.abs().max()


def test_bfloat16_is_that_of_float32_within_its_rounding():
    exact = random_module(FAMILY["qwen3"], torch.bfloat16)
    tokens = torch.arange(40)[None] * 7 % 60
    wanted = exact.float()(tokens).logits
    module = random_module(FAMILY["qwen3"], torch.bfloat16)
    stock = module(tokens).logits.float()
    sped_up(module)
    ours = read(module, tokens)[0]
    assert (ours - wanted).norm() <= (stock - wanted).norm()


@pytest.mark.parametrize("weights", ["float", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_text_read_in_any_chunks_has_the_same_logits_bitwise(dtype, weights):
    module, tokens = random_module(FAMILY["llama"], dtype), torch.arange(150)[None] * 7 % 60
    sped_up(module, weights=weights)
    one_by_one = read(module, tokens, chunk=1)
    for chunk in (2, 3, 8, 33, 64, 150):
        logits, hidden = read(module, tokens, chunk)
        assert torch.equal(logits, one_by_one[0])
        assert torch.equal(hidden, one_by_one[1])


def test_revert_leaves_the_model_as_it_was():
    module = random_module(FAMILY["llama"])
    before = {name: (id(part), type(part)) for name, part in module.named_modules()}
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    done = sped_up(module)
    assert speedup_of(module) is done
    assert TreeForward(module, FullAttention()).native is done.decoder
    done.revert()
    assert speedup_of(module) is None
    assert TreeForward(module, FullAttention()).native is None
    assert {name: (id(part), type(part)) for name, part in module.named_modules()} == before
    assert all(torch.equal(module.state_dict()[name], old) for name, old in weights.items())


def test_a_bare_decoder_runs_without_an_output_layer():
    torch.manual_seed(0)
    module = LlamaModel(FAMILY["llama"]).eval().requires_grad_(False)
    tokens = torch.arange(20)[None]
    wanted = module(tokens).last_hidden_state
    assert sped_up(module).decoder is not None
    method = FullAttention()
    cache = KVCache.for_module(module, 1, 20)
    rows = TreeForward(module, method).prefill(cache, tokens, torch.tensor([20]), want_hidden=True)
    assert rows.logits is None
    assert (rows.hidden - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("arch", "why"),
    [("gemma3", "none of llama"), ("mistral", "not every layer sees the whole prefix")],
)
def test_other_layers_keep_their_modules_and_say_why(arch, why):
    model = tiny_model(arch)
    done = sped_up(model.module)
    assert done.decoder is None
    assert why in done.why_not
    assert self_test(model, FullAttention()).passed


def test_a_user_hears_what_does_not_run_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FIVEFOLD_KERNELS", str(tmp_path))
    monkeypatch.setattr("fivefold_kernels.native.library._LOADED", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = []
    assert choose_kernels("auto", "float", torch.float32, said.append).name == "onednn"
    assert "install g++, or set CXX" in said[0]
    with pytest.raises(UserError, match=r"model\.kernels=avx2|model\.kernels=portable"):
        choose_kernels("portable", "float", torch.float32)
    with pytest.raises(UserError, match="do not run here"):
        choose_kernels("auto", "int4", torch.float32)
    with pytest.raises(UserError, match=r"model\.weights=int8.*model\.dtype=float32"):
        choose_kernels("auto", "int8", torch.float16)
    assert choose_kernels("torch", "float", torch.float32) is None
    assert kernels_folder() == tmp_path
    assert isinstance(random_module(FAMILY["llama"]).lm_head, nn.Linear)


@pytest.mark.parametrize("weights", ["float", "int8", "int4"])
def test_logits_by_chunks_are_those_of_the_pass_bit_for_bit(weights):
    module = random_module(FAMILY["llama"])
    sped_up(module, weights=weights)
    forward = TreeForward(module, FullAttention())
    tokens = torch.randint(0, 60, (2, 7), generator=torch.Generator().manual_seed(3))
    depths = torch.arange(7).expand(2, -1)
    seen = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    whole = forward(KVCache.for_module(module, 2, 16), tokens, depths, seen).logits
    rows = forward(KVCache.for_module(module, 2, 16), tokens, depths, seen, head_chunk=4)
    assert torch.equal(torch.cat([logits for _, logits in rows.chunks()]).view_as(whole), whole)


def test_logits_by_chunks_are_those_of_the_pass_in_bfloat16():
    module = random_module(FAMILY["llama"], torch.bfloat16)
    sped_up(module)
    forward = TreeForward(module, FullAttention())
    tokens, depths = torch.tensor([[3, 1, 4, 1, 5]]), torch.arange(5)[None]
    seen = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    whole = forward(KVCache.for_module(module, 1, 16), tokens, depths, seen).logits
    rows = forward(KVCache.for_module(module, 1, 16), tokens, depths, seen, head_chunk=2)
    assert torch.equal(torch.cat([logits for _, logits in rows.chunks()]).view_as(whole), whole)
