"""The self-test passes what is right, and catches what is silently wrong."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm import check
from fivefold_lm.attention import FullAttention
from fivefold_lm.cache import KVCache
from fivefold_lm.check import self_test
from fivefold_lm.forward import TreeForward
from fivefold_lm.models import LanguageModel
from fivefold_lm.packed import PackedLinear, pack_linears, packed_product
from fivefold_lm.testing import ARCHITECTURES, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, MambaConfig


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_passes(arch):
    assert self_test(tiny_model(arch), FullAttention()).error < 1e-4


def test_a_wide_window_is_narrowed_so_that_it_is_tested(monkeypatch):
    model = tiny_model("mistral", sliding_window=64)
    assert self_test(model, FullAttention()).error < 1e-4
    assert model.module.config.sliding_window == 64
    blind = KVCache.visible_columns
    monkeypatch.setattr(KVCache, "visible_columns", lambda self, seen, _=None: blind(self, seen))
    with pytest.raises(UserError, match="self-test: this model's tree forward is off"):
        self_test(tiny_model("mistral", seed=1, sliding_window=64), FullAttention())


class Damaged(FullAttention):
    name = "damaged"


def test_a_boolean_mask_under_eager_attention_is_caught():
    class Eager(Damaged):
        def attend(self, layer, query, key, value, mask, scale, *, softcap=None):
            return super().attend(layer, query, key, value, (mask == 0).float(), scale)

    with pytest.raises(UserError, match=r"off by .* \(model\.name=tiny-llama"):
        self_test(tiny_model(), Eager())


def test_positions_by_slot_are_caught(monkeypatch):
    plain = TreeForward.__call__

    def by_slot(self, cache, tokens, depths, visible, **options):
        slots = torch.arange(depths.shape[1])
        return plain(self, cache, tokens, slots.expand_as(depths), visible, **options)

    monkeypatch.setattr(TreeForward, "__call__", by_slot)
    with pytest.raises(UserError, match="off by"):
        self_test(tiny_model(), FullAttention())


def test_a_cache_that_keeps_the_wrong_slots_is_caught():
    class Forgetful(KVCache):
        def keep(self, path, count):
            self.commit(count)

    class Keeps(Damaged):
        def make_cache(self, model, batch, max_len):
            return Forgetful.for_module(model.module, batch, max_len)

    with pytest.raises(UserError, match="off by"):
        self_test(tiny_model(), Keeps())


def test_a_model_that_cannot_take_a_tree_is_refused_with_its_error():
    class Breaks(Damaged):
        def attend(self, *_, **__):
            raise NotImplementedError("attention with s_aux")

    with pytest.raises(UserError, match=r"cannot take a tree .*s_aux"):
        self_test(tiny_model(), Breaks())


def test_a_recurrent_model_is_refused_with_the_reason():
    module = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=16, hidden_size=16, state_size=4, num_hidden_layers=2)
    )
    model = LanguageModel.wrap(module, tiny_tokenizer(16), "mamba")
    with pytest.raises(UserError, match=r"no tree-attention: mamba is recurrent"):
        self_test(model, FullAttention())


def test_a_result_is_remembered(monkeypatch):
    model = tiny_model()
    first = self_test(model, FullAttention())
    monkeypatch.setattr(check, "_measure", pytest.fail)
    assert self_test(model, FullAttention()) == first


def test_a_failure_is_not_remembered_nor_what_other_settings_gave(monkeypatch):
    class Tuned(Damaged):
        def __init__(self, factor):
            self.factor = factor

        def attend(self, layer, query, key, value, mask, scale, *, softcap=None):
            return super().attend(layer, query, key, value, mask, self.factor * scale)

    model = tiny_model()
    assert self_test(model, Tuned(1.0)).passed
    with pytest.raises(UserError, match="off by"):
        self_test(model, Tuned(2.0))
    monkeypatch.setattr(check, "_measure", lambda *_: check.SelfTest(0.0, 1.0))
    assert self_test(model, Tuned(2.0)).tolerance == 1.0  # measured again


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_fault_is_caught_in_every_format(dtype):
    class Inverted(Damaged):
        def attend(self, layer, query, key, value, mask, scale, *, softcap=None):
            return super().attend(layer, query, key, value, 0 * mask, scale, softcap=softcap)

    model = tiny_model()
    model.module.to(dtype)
    assert self_test(model, FullAttention()).passed
    with pytest.raises(UserError, match=f"off by .*model.dtype={dtype}".replace("torch.", "")):
        self_test(model, Inverted())


def test_a_wrong_packed_product_is_caught():
    model = tiny_model()
    pack_linears(model.module)
    assert self_test(model, FullAttention()).passed
    layer = next(part for part in model.module.modules() if isinstance(part, PackedLinear))
    layer.product = packed_product(layer.weight.detach().flip(0)).product
    note = check._note(model, FullAttention())
    note.unlink()
    with pytest.raises(UserError, match="off by"):
        self_test(model, FullAttention())


def test_without_a_cache_folder_the_test_is_simply_run(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "file"))
    assert self_test(tiny_model(), FullAttention()).passed


def test_a_lossy_method_is_compared_with_nothing(monkeypatch):
    monkeypatch.setattr(check, "_measure", pytest.fail)
    method = Damaged()
    method.lossless = False
    assert self_test(tiny_model(), method).passed
