"""Kernels are put on a model once, wholly or not at all, and taken off again."""

import copy

import pytest
import torch
from fivefold import UserError
from fivefold_kernels import UnsupportedError
from fivefold_kernels.native.library import has_compiler
from fivefold_lm import ModelConfig, load_model
from fivefold_lm.kernels import choose_kernels, speed_up, speedup_of
from fivefold_lm.packed import PackedLinear
from fivefold_lm.testing import llama_family, random_module, tiny_model
from torch import nn

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
LLAMA = llama_family()["llama"]
TOKENS = torch.arange(9)[None] % 60


def kernels(weights="float"):
    return choose_kernels("auto", weights, torch.float32)


def packed(module):
    return [part for part in module.modules() if isinstance(part, PackedLinear)]


@pytest.mark.parametrize("again", ["float", "int8"])
def test_a_second_time_is_refused_until_the_first_is_undone(again):
    module = random_module(LLAMA)
    wanted = module(TOKENS).logits
    first = speed_up(module, kernels())
    with pytest.raises(ValueError, match=r"sped up already; call revert\(\)"):
        speed_up(module, kernels(again))
    first.revert()
    first.revert()  # nothing happens
    assert not packed(module)
    assert torch.equal(module(TOKENS).logits, wanted)
    second = speed_up(module, kernels(again))
    first.revert()  # not its to undo
    assert speedup_of(module) is second
    second.revert()
    assert torch.equal(module(TOKENS).logits, wanted)


def test_a_model_that_cannot_be_packed_is_left_as_it_was():
    module = random_module(LLAMA)
    last = module.model.layers[-1].mlp
    last.down_proj = copy.deepcopy(last.down_proj).half()
    with pytest.raises(UnsupportedError, match="float16"):
        speed_up(module, kernels())
    assert not packed(module)
    assert speedup_of(module) is None


class Adapted(nn.Module):
    """A linear layer inside something else, as LoRA has it."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x)


class Own(nn.Linear):
    """A linear layer of a kind of its own."""


def test_wrapped_layers_run_layer_by_layer_and_say_why():
    module = random_module(LLAMA)
    wanted = module(TOKENS).logits
    attention = module.model.layers[0].self_attn
    attention.q_proj = Adapted(attention.q_proj)
    own = Own(64, 32, bias=False)
    own.weight = attention.k_proj.weight
    attention.k_proj = own
    done = speed_up(module, kernels())
    assert done.decoder is None
    assert "stands where a plain linear layer would" in done.why_not
    assert packed(module)
    with torch.no_grad():
        assert (module(TOKENS).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    done.revert()
    assert torch.equal(module(TOKENS).logits, wanted)


def test_a_layer_that_was_put_in_meanwhile_stays():
    module = random_module(LLAMA)
    done = speed_up(module, kernels())
    head = module.lm_head = nn.Linear(64, 5)
    done.revert()
    assert module.lm_head is head
    assert not packed(module)


def test_kernels_that_do_not_compute_in_a_number_format_are_refused_or_said():
    with pytest.raises(UserError, match=r"not in float16 \(model\.kernels=onednn\).*model\.dtype"):
        choose_kernels("onednn", "float", torch.float16)
    said = []
    assert choose_kernels("auto", "float", torch.float16, said.append) is None
    assert said == ["slower kernels are used: ours compute in float32 and bfloat16, not in float16"]
    assert choose_kernels("torch", "float", torch.float16, said.append) is None
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "dtype", "remedy"),
    [
        ("torch", torch.float32, "set model.kernels=auto, or model.weights=float"),
        ("auto", torch.float16, "set model.dtype=float32, or model.weights=float"),
        ("onednn", torch.float16, "set model.kernels=auto and model.dtype=float32, or model"),
    ],
)
def test_remedies_name_what_is_not_set_yet(name, dtype, remedy):
    with pytest.raises(UserError, match=remedy.replace(".", r"\.")):
        choose_kernels(name, "int8", dtype)


def test_rounded_weights_without_a_compiler_name_their_own_setting(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(UserError, match=r"no C\+\+ compiler.*model\.weights=int8\); set model\.w"):
        choose_kernels("auto", "int8", torch.float32)


def test_a_checkpoint_that_holds_no_numbers_is_refused_where_rounding_would_hide_them(tmp_path):
    model = tiny_model()
    model.module.model.layers[0].mlp.up_proj.weight.data[3, 4] = float("nan")
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"NaN or inf.*\(model\.weights=int8\); set model\.weights"):
        load_model(ModelConfig(name=str(tmp_path), weights="int8"))
