"""The predicted peak of a step against the bytes that a real one takes: invariant 16."""

import logging

import pytest
import torch
from fivefold import UserError
from fivefold_mst_train import LiveBytes, apply_mst
from fivefold_mst_train._words import Offload
from fivefold_mst_train.config import (
    BudgetConfig,
    CheckpointConfig,
    FaithfulConfig,
    HeadConfig,
    MlpConfig,
    MstConfig,
)
from fivefold_mst_train.mst.methods import FaithfulMethod, apply_layers
from fivefold_mst_train.mst.planner import longest_sequence, predict_peak
from fivefold_mst_train.mst.schemes import for_device
from fivefold_mst_train.mst.tiles import cut, head_chunk, tile_budget
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}


def llama(layers, **more):
    return LlamaConfig(**{**SHAPE, "num_hidden_layers": layers, **more})


def gemma():
    """Layers that look back 64 tokens and layers that see everything, in turns; eager attention."""
    made = Gemma2Config(**SHAPE, num_hidden_layers=3, head_dim=8, sliding_window=64)
    made._attn_implementation = "eager"
    return made


def qwen():
    """The same kinds of layers, under sdpa."""
    kinds = ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"]
    window = {"sliding_window": 64, "use_sliding_window": True, "layer_types": kinds}
    made = Qwen2Config(**SHAPE, **window, num_hidden_layers=len(kinds))
    made._attn_implementation = "sdpa"
    return made


def mistral():
    made = MistralConfig(**SHAPE, num_hidden_layers=4, sliding_window=64)
    made._attn_implementation = "sdpa"
    return made


def mst(tile=64, chunk=64, **more):
    settings = MstConfig(
        mlp=MlpConfig(tile_tokens=tile), head=HeadConfig(chunk_tokens=chunk), **more
    )
    return lambda model: apply_mst(model, settings)


def plain(model):
    return apply_layers(model, None)


def checkpointed(model):
    return apply_layers(model, Offload.NONE)


def block(model):
    return apply_mst(model, tile_tokens=64, chunk_tokens=64, block=True)


def model_of(shape):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        shape, attn_implementation=getattr(shape, "_attn_implementation", None)
    ).train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return model


def counted(shape, apply, batch, tokens):
    """Count one forward and backward of the whole model, gradients allocated."""
    model = model_of(shape)
    ids = torch.randint(0, shape.vocab_size, (batch, tokens))
    with apply(model), LiveBytes() as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.peak


OFFLOADED = mst(checkpoint=CheckpointConfig(True, Offload.CPU))
FAITHFUL = FaithfulMethod(FaithfulConfig()).apply
CASES = {
    "plain": (llama(5), plain, 1, 700),
    "checkpoint": (llama(6), checkpointed, 1, 900),
    "mst": (llama(6), mst(), 1, 1500),
    "mst, two rows": (llama(5), mst(100, 50), 2, 700),
    "mst, offloaded": (llama(6), OFFLOADED, 1, 1100),
    "mst, no checkpoints": (llama(5), mst(checkpoint=CheckpointConfig(False)), 1, 700),
    "block": (llama(6), block, 1, 1100),
    "faithful": (llama(5), FAITHFUL, 1, 1000),
    "a large vocabulary": (llama(16, vocab_size=8192, tie_word_embeddings=True), mst(), 1, 1000),
    "scores of all pairs": (gemma(), plain, 2, 300),
    "scores of all pairs, mst": (gemma(), mst(), 1, 400),
    "windows": (mistral(), plain, 2, 300),
    "windows, block": (mistral(), block, 1, 400),
    "windows of every second layer": (qwen(), plain, 1, 300),
    "windows of every second layer, checkpoint": (qwen(), checkpointed, 1, 300),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_prediction_is_near_what_is_counted(name):
    """On models of more layers than the planner runs; ten per cent is what is promised.

    A layer's input may be missing where the last layer is of another kind than in the slices.
    """
    shape, apply, batch, tokens = CASES[name]
    predicted = predict_peak(shape, apply, batch, tokens, torch.float32).total
    assert predicted == pytest.approx(counted(shape, apply, batch, tokens), rel=0.03)


def test_a_plan_leaves_out_tiles_that_are_like_others():
    whole, planned = list(cut(1000, 64)), list(cut(1000, 64, is_planned=True))
    assert torch.cat([torch.arange(1000)[each] for each in whole]).tolist() == list(range(1000))
    assert planned == [whole[0], whole[1], whole[-1]]


@pytest.mark.parametrize(
    "apply",
    [plain, checkpointed, mst(), block, FAITHFUL],
    ids=["plain", "checkpoint", "mst", "block", "faithful"],
)
def test_one_step_more_than_the_longest_sequence_does_not_fit(apply):
    shape, room = llama(6), 16 * 2**20
    longest = longest_sequence(shape, apply, 1, torch.float32, room, step=64)
    peaks = [
        predict_peak(shape, apply, 1, tokens, torch.float32).total
        for tokens in (longest, longest + 64)
    ]
    assert peaks[0] <= room < peaks[1]


def test_a_peak_that_cannot_be_predicted_is_said(monkeypatch, caplog):
    """One line in the log, whatever the method."""

    def refuse(*_):
        raise NotImplementedError("no shape function\nand a long story")

    monkeypatch.setattr("fivefold_mst_train.mst.planner.predict_peak", refuse)
    caplog.set_level(logging.WARNING)
    for apply in (plain, mst()):
        with apply(model_of(llama(2))) as handle:
            assert handle.predicted_peak(1, 100) is None
    assert caplog.messages == ["the peak cannot be predicted: no shape function"] * 2


def test_no_peak_is_predicted_for_a_part_of_the_weights():
    model = model_of(llama(2))
    model.model.embed_tokens.requires_grad_(False)
    with mst()(model) as handle:
        assert handle.predicted_peak(1, 100) is None


def test_a_planned_device_gives_the_least_tile_what_it_needs_and_a_given_budget_does_not():
    """Two per cent of 80 GiB are less than the scores of 1,024 tokens over Gemma's vocabulary."""
    memory, vocab = 80 * 2**30, 256_000
    planned = for_device(MstConfig(), memory).budget
    room = tile_budget(planned, torch.device("meta"))
    assert head_chunk(planned, room, vocab, 2, False) == 1024
    given = for_device(MstConfig(budget=BudgetConfig("1GiB")), memory).budget
    with pytest.raises(UserError, match=r"smallest tile of 1024 tokens.*give 2000MiB or more"):
        head_chunk(given, tile_budget(given, torch.device("meta")), vocab, 2, False)
