"""The tree forward says what the plain model says, on every architecture it accepts."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm.attention import FullAttention
from fivefold_lm.cache import KVCache
from fivefold_lm.forward import TreeForward
from fivefold_lm.layout import Layout, why_no_tree
from fivefold_lm.testing import (
    ARCHITECTURES,
    KEPT,
    PARENTS,
    PROMPTS,
    ancestors,
    keep,
    path_to,
    plain_logits,
    ragged,
    step,
    tiny_model,
    verify,
)
from transformers import AutoModelForCausalLM, MambaConfig

METHOD = FullAttention()


def close(got, wanted, tolerance=2e-5):
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_tree_and_next_step_equal_the_plain_model(arch):
    model = tiny_model(arch)
    tree, nodes, cache = verify(model, METHOD, PROMPTS)
    last = torch.tensor([[3], [4], [5]])
    keep(cache, KEPT)
    after = step(model, METHOD, cache, last)
    for row, prompt in enumerate(PROMPTS):
        for node in range(len(PARENTS)):
            text = prompt + nodes[row, path_to(node, PARENTS)].tolist()
            close(tree[row, node], plain_logits(model.module, text)[-1])
        text = prompt + nodes[row, KEPT[row]].tolist() + last[row].tolist()
        close(after[row], plain_logits(model.module, text)[-1])


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_a_tree_grown_level_by_level_equals_the_tree_at_once(arch):
    model = tiny_model(arch)
    whole, nodes, _ = verify(model, METHOD, PROMPTS)
    forward = TreeForward(model.module, METHOD)
    cache = METHOD.make_cache(model, len(PROMPTS), 64)
    forward.prefill(cache, *ragged(PROMPTS))
    seen = ancestors(PARENTS)
    depths = (seen.sum(1) - 1).expand(len(PROMPTS), -1)
    for start, stop in [(0, 1), (1, 3), (3, 6), (6, 8)]:
        visible = seen[start:stop, :stop].expand(len(PROMPTS), -1, -1)
        rows = forward(cache, nodes[:, start:stop], depths[:, start:stop], visible)
        close(rows.logits, whole[:, start:stop])


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_prefill_yields_the_logits_after_each_rows_last_token(arch, chunk):
    model = tiny_model(arch)
    cache = METHOD.make_cache(model, len(PROMPTS), 32)
    forward = TreeForward(model.module, METHOD)
    rows = forward.prefill(cache, *ragged(PROMPTS), want_logits=True, want_hidden=True, chunk=chunk)
    assert cache.lengths.tolist() == [len(prompt) for prompt in PROMPTS]
    for row, prompt in enumerate(PROMPTS):
        close(rows.logits[row, 0], plain_logits(model.module, prompt)[-1])
        out = model.module.base_model(torch.tensor([prompt]), use_cache=False)
        close(rows.hidden[row, : len(prompt)], out.last_hidden_state[0])


def test_prefill_continues_where_the_cache_ends():
    model = tiny_model()
    cache = METHOD.make_cache(model, 1, 32)
    forward = TreeForward(model.module, METHOD)
    forward.prefill(cache, *ragged([PROMPTS[0]]))
    rows = forward.prefill(cache, *ragged([PROMPTS[1]]), want_logits=True)
    close(rows.logits[0, 0], plain_logits(model.module, PROMPTS[0] + PROMPTS[1])[-1])


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_hidden_states_are_those_that_the_logits_come_from(arch):
    model = tiny_model(arch)
    cache = METHOD.make_cache(model, 1, 32)
    seen = ancestors(PARENTS)[None]
    nodes = torch.arange(1, 9)[None]
    rows = TreeForward(model.module, METHOD)(cache, nodes, seen.sum(-1) - 1, seen, want_hidden=True)
    close(model.module.get_output_embeddings()(rows.hidden), rows.logits)


def test_a_bare_decoder_yields_hidden_states_and_takes_vectors():
    model = tiny_model()
    decoder = model.module.base_model
    tokens, lengths = ragged(PROMPTS)
    vectors = decoder.get_input_embeddings()(tokens)
    forward = TreeForward(decoder, METHOD)
    by_token = forward.prefill(
        KVCache.for_module(decoder, 3, 32), tokens, lengths, want_hidden=True
    )
    by_vector = forward.prefill(
        KVCache.for_module(decoder, 3, 32), None, lengths, inputs_embeds=vectors, want_hidden=True
    )
    assert by_token.logits is None
    close(by_token.hidden, by_vector.hidden, 0.0)


def test_logits_are_float32_whatever_the_model_computes_in():
    model = tiny_model()
    model.module.to(torch.bfloat16)
    logits, nodes, _ = verify(model, METHOD, PROMPTS)
    assert logits.dtype == torch.float32
    wanted = plain_logits(model.module, PROMPTS[0] + nodes[0, :1].tolist())[-1]
    assert (logits[0, 0] - wanted).abs().max() < 0.2 * wanted.std()


def closed_model():
    """A model whose code passes nothing on to its attention layers."""
    model = tiny_model()
    parent = type(model.module)

    class Closed(parent):
        def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache):
            masks = {"attention_mask": attention_mask, "position_ids": position_ids}
            return parent.forward(self, input_ids, past_key_values=past_key_values, **masks)

    model.module.__class__ = Closed
    return model


def test_a_model_that_passes_nothing_on_gets_full_attention():
    model = closed_model()
    tree, nodes, _ = verify(model, METHOD, PROMPTS)
    close(tree, verify(tiny_model(), METHOD, PROMPTS, nodes)[0])


def test_a_method_that_the_model_never_asks_is_refused():
    class Odd(FullAttention):
        name = "odd"

    with pytest.raises(UserError, match=r"attends by code of its own \(attention=odd\)"):
        verify(closed_model(), Odd(), PROMPTS)


def test_recurrent_models_are_refused_with_the_reason():
    config = MambaConfig(vocab_size=16, hidden_size=16, state_size=4, num_hidden_layers=2)
    module = AutoModelForCausalLM.from_config(config)
    assert "mamba is recurrent" in why_no_tree(module)


def test_a_layer_type_that_no_mask_describes_is_named():
    module = tiny_model("qwen3").module
    module.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert "linear_attention" in why_no_tree(module)


@pytest.mark.parametrize(
    ("arch", "config", "masks", "windows"),
    [
        ("llama", {}, ("full_attention",), [None]),
        ("mistral", {}, ("sliding_attention",), [6]),
        ("mistral", {"sliding_window": None}, ("full_attention",), [None]),
        ("qwen2", {}, ("full_attention",), [None]),
        ("gemma3", {}, ("sliding_attention", "full_attention"), [6, None]),
    ],
)
def test_layouts_are_read_from_the_config(arch, config, masks, windows):
    layout = Layout.of(tiny_model(arch, **config).module)
    assert layout.masks == masks
    assert [layout.window_of(kind) for kind in masks] == windows


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_logits_by_chunks_are_those_of_the_pass(arch):
    model = tiny_model(arch)
    whole, nodes, _ = verify(model, METHOD, PROMPTS)
    forward = TreeForward(model.module, METHOD)
    cache = METHOD.make_cache(model, len(PROMPTS), 64)
    forward.prefill(cache, *ragged(PROMPTS))
    seen = ancestors(PARENTS).expand(len(PROMPTS), -1, -1)
    before = dict(model.module.named_modules())
    rows = forward(cache, nodes, seen.sum(-1) - 1, seen, head_chunk=5)
    assert rows.logits is None
    sizes = [len(logits) for _, logits in rows.chunks()]
    assert max(sizes) == 5
    assert sum(sizes) == nodes.numel()
    close(torch.cat([logits for _, logits in rows.chunks()]).view_as(whole), whole)
    close(rows.at(torch.tensor([3, 0, 7])), whole[torch.arange(3), torch.tensor([3, 0, 7])])
    assert dict(model.module.named_modules()) == before, "the model is left as it was"


def test_hooks_of_the_decoder_see_no_pass_when_logits_are_made_by_chunks():
    model = tiny_model("llama")
    forward = TreeForward(model.module, METHOD)
    cache = METHOD.make_cache(model, len(PROMPTS), 64)
    forward.prefill(cache, *ragged(PROMPTS))
    seen = ancestors(PARENTS).expand(len(PROMPTS), -1, -1)
    nodes = torch.ones(len(PROMPTS), len(PARENTS), dtype=torch.long)
    rows = forward(cache, nodes, seen.sum(-1) - 1, seen, head_chunk=5)
    calls = []
    with forward.decoder.register_forward_pre_hook(lambda *_: calls.append("pass")):
        assert len(list(rows.chunks())) > 1
    assert calls == []
