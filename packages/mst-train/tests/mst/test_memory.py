"""What is alive at the peak: invariants 3 to 6, 12 and 15 of the specification, counted."""

import pytest
import torch
from fivefold_mst_train import LiveBytes, apply_mst
from fivefold_mst_train._words import Offload, Recompute
from fivefold_mst_train.config import CheckpointConfig, HeadConfig, MlpConfig, MstConfig
from fivefold_mst_train.mst.methods import apply_layers
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

HIDDEN, WIDTH, VOCAB, GROUPS = 64, 224, 512, 4


def config(layers=2, width=WIDTH, vocab=VOCAB, heads=8):
    return LlamaConfig(
        vocab_size=vocab, hidden_size=HIDDEN, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // GROUPS,
        max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip


def step(shape, tokens, apply, batch=1, counter=None):
    """Count one forward and backward with gradients allocated; return the counter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape).train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    ids = torch.randint(0, shape.vocab_size, (batch, tokens))
    with apply(model), counter or LiveBytes() as found:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return found


def mst(tile=64, chunk=64, **more):
    settings = MstConfig(
        mlp=MlpConfig(tile_tokens=tile), head=HeadConfig(chunk_tokens=chunk), **more
    )
    return lambda model: apply_mst(model, settings)


def slope(shape, apply, few=1024, many=2048):
    """Return what a token adds to the peak, in units of one hidden state."""
    peaks = [step(shape, tokens, apply).peak for tokens in (few, many)]
    return (peaks[1] - peaks[0]) / (many - few) / (HIDDEN * 4)


@pytest.mark.parametrize("block", [False, True])
def test_no_tensor_of_all_scores_or_all_widths_is_made(block):
    """Invariant 3; the head's own gradient, V x d, is smaller than N x V here."""
    tokens = 600

    def apply(model):
        return apply_mst(model, tile_tokens=64, chunk_tokens=64, block=block)

    counter = step(config(), tokens, apply, counter=LiveBytes(shapes=True))
    allowed = {(VOCAB, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH)}
    large = [shape for shape in counter.sizes if shape not in allowed]
    numel = [torch.Size(shape).numel() for shape in large]
    assert max(numel) < tokens * WIDTH
    assert counter.max_numel < tokens * VOCAB


def test_plain_training_does_make_them():
    """The counter would see it (NeMo-Automodel 3907, slime 2253)."""
    counter = step(config(), 600, lambda model: apply_layers(model, None))
    assert counter.max_numel >= 599 * VOCAB


def test_peak_is_affine_in_the_length():
    """Invariant 4: the fourth thousand tokens cost what the third did, 11.2 + L hidden states."""
    apply, shape = mst(), config()
    first, second = slope(shape, apply, 2048, 3072), slope(shape, apply, 3072, 4096)
    assert first == pytest.approx(second, rel=0.01)
    assert first <= 1.0 * shape.num_hidden_layers + 11.16 * 1.1


def test_a_layer_adds_its_input_and_nothing_else():
    apply = mst()
    assert slope(config(4), apply) - slope(config(2), apply) == pytest.approx(2.0, rel=1e-3)


def test_slope_does_not_depend_on_the_vocabulary():
    apply = mst(chunk=16)
    assert slope(config(vocab=4 * VOCAB), apply) == pytest.approx(slope(config(), apply), rel=0.02)


def test_slope_does_not_grow_with_the_width():
    apply = mst()
    assert slope(config(width=2 * WIDTH), apply) <= slope(config(), apply) * 1.01


def test_blocks_take_less_than_tiled_mlps():
    """Section 6.4: a third to a half of what a layer needs besides its checkpoint."""
    apply = lambda model: apply_mst(model, tile_tokens=64, chunk_tokens=64, block=True)  # noqa: E731
    layers = config().num_hidden_layers
    assert slope(config(), apply) - layers < 0.75 * (slope(config(), mst()) - layers)


def test_peak_falls_with_the_tile():
    """Invariant 5."""
    peaks = [step(config(), 1024, mst(tile, 16)).peak for tile in (512, 256, 128, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


def test_splitting_alone_does_not_save_backward():
    """Defect 5: the reference's scheme keeps every tile's wide tensors."""
    settings = MstConfig(
        mlp=MlpConfig(tile_tokens=64, recompute=Recompute.NONE), head=HeadConfig(chunk_tokens=64)
    )
    faithful = slope(config(), lambda model: apply_mst(model, settings))
    assert faithful > 1.4 * slope(config(), mst())


def test_offloaded_checkpoints_leave_the_device():
    """Section 6.2: what a layer adds per token falls to nothing."""
    apply = mst(checkpoint=CheckpointConfig(True, Offload.CPU))
    assert slope(config(4), apply) - slope(config(2), apply) == pytest.approx(0.0, abs=0.01)


def forwards(shape, tokens, apply):
    """Return MLP forwards a token."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape).train()
    rows = []
    ids = torch.randint(0, shape.vocab_size, (1, tokens))
    with apply(model):  # what is compared when it is applied is not counted
        for layer in model.model.layers:
            layer.mlp.gate_proj.register_forward_pre_hook(
                lambda _, given: rows.append(given[0].numel() // HIDDEN)
            )
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return sum(rows) / tokens / shape.num_hidden_layers


@pytest.mark.parametrize("block", [False, True])
def test_an_mlp_runs_twice_a_token(block):
    """Invariant 6."""
    apply = lambda model: apply_mst(model, tile_tokens=50, chunk_tokens=64, block=block)  # noqa: E731
    assert forwards(config(), 333, apply) == 2.0
    assert forwards(config(), 333, lambda model: apply_layers(model, Offload.NONE)) == 2.0


def test_without_saving_first_it_runs_three_times():
    settings = MstConfig(mlp=MlpConfig(tile_tokens=50, save_first=False))
    assert forwards(config(), 333, lambda model: apply_mst(model, settings)) == 3.0


def gemma():
    return Gemma2Config(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip


def test_the_norm_after_gemmas_mlp_runs_inside_the_tile(monkeypatch):
    """Invariant 15: outside of it, a replay would need the MLP's result."""
    apply = mst(50)
    assert forwards(gemma(), 333, apply) == 2.0
    from fivefold_mst_train.mst import discovery

    monkeypatch.setattr(discovery, "POST_NORMS", ())
    assert forwards(gemma(), 333, apply) == 3.0


def test_views_and_changes_in_place_are_no_new_bytes():
    given = torch.zeros(100)
    with LiveBytes() as counter:
        given.view(10, 10).add_(1)
        assert counter.live == 0
        made = given + 1
        made.view(10, 10)[0].mul_(2)
        assert counter.live == 400
        del made
        assert counter.live == 0
    assert counter.peak == 400


def test_a_module_that_is_not_counted_beforehand_is_seen():
    with LiveBytes() as counter:
        layer = nn.Linear(10, 10, bias=False)
    assert counter.live == 400
    del layer
    assert counter.live == 0
