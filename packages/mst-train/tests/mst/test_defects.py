"""Every defect of the source's code, and every complaint about its kind, that is ours to avoid.

Numbers are those of sections 12 and 13 of the specification; others are tested where the part is.
"""

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import LiveBytes, apply_mst, linear_cross_entropy
from fivefold_mst_train._words import HeadStrategy, Recompute
from fivefold_mst_train.config import HeadConfig, MlpConfig, MstConfig
from fivefold_mst_train.testing import (
    exact_norms,
    gradients,
    plain_loss,
    training_batch,
    worst_error,
)
from torch.nn import functional as F

VOCAB = 96


def model():
    module = tiny_model(
        "llama", VOCAB, eos_token_id=None, max_position_embeddings=512
    ).module.double()
    return exact_norms(module).train()


def faithful(chunks=4):
    """The source's scheme: split, no recompute by tile, scores recomputed in backward."""
    return MstConfig(
        mlp=MlpConfig(tile_tokens=8, recompute=Recompute.NONE),
        head=HeadConfig(num_chunks=chunks, strategy=HeadStrategy.RECOMPUTE),
    )


@pytest.mark.parametrize("settings", [MstConfig(), faithful()], ids=["mst", "faithful"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_1_gradient_of_the_head_is_not_added_twice(settings, steps):
    """2.00x after one backward, 7.53x after four, in the reference."""
    got, wanted = model(), model()
    with apply_mst(got, settings):
        for seed in range(steps):
            got(**training_batch(VOCAB, seed=seed), use_cache=False).loss.backward()
    for seed in range(steps):
        plain_loss(wanted, training_batch(VOCAB, seed=seed)).backward()
    ratio = got.lm_head.weight.grad.norm() / wanted.lm_head.weight.grad.norm()
    assert float(ratio) == pytest.approx(1.0, abs=1e-12)
    assert worst_error(gradients(got), gradients(wanted)) < 1e-12


@pytest.mark.parametrize("tokens", [100, 300])
def test_2_tokens_at_the_end_are_counted(tokens):
    """64 chunks of floor(S / 64) leave up to 63 out, in the reference."""
    got, wanted = model(), model()
    batch = training_batch(VOCAB, batch=1, tokens=tokens, ignored="none")
    with apply_mst(got, faithful(chunks=64)):
        loss = got(**batch, use_cache=False).loss
    torch.testing.assert_close(loss, plain_loss(wanted, batch), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tokens", [1, 2, 63])
def test_3_fewer_tokens_than_chunks(tokens):
    got, wanted = model(), model()
    batch = training_batch(VOCAB, batch=1, tokens=tokens, ignored="none")
    with apply_mst(got, faithful(chunks=64)):
        loss = got(**batch, use_cache=False).loss
        loss.backward()
    torch.testing.assert_close(loss, plain_loss(wanted, batch), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("where", ["first", "last", "middle"])
def test_4_a_chunk_without_labels_changes_nothing_wherever_it_is(where):
    """An early return skips the count in the reference: results hang on where padding is."""
    got, wanted = model(), model()
    batch = training_batch(VOCAB, batch=1, tokens=40, ignored="none")
    place = {"first": slice(0, 10), "middle": slice(10, 20), "last": slice(30, 40)}[where]
    batch["shift_labels"][0, place] = -100
    batch["num_items_in_batch"] = (batch["shift_labels"] != -100).sum()
    with apply_mst(got, MstConfig(head=HeadConfig(chunk_tokens=10))):
        got(**batch, use_cache=False).loss.backward()
    plain_loss(wanted, batch).backward()
    assert worst_error(gradients(got), gradients(wanted)) < 1e-12


def test_mean_of_the_chunks_means_is_not_the_loss():
    """DeepSpeed 8587: chunks with other numbers of labels."""
    got, wanted = model(), model()
    batch = training_batch(VOCAB, batch=1, tokens=40, ignored="none")
    batch["shift_labels"][0, 1:20] = -100
    batch["num_items_in_batch"] = (batch["shift_labels"] != -100).sum()
    with apply_mst(got, MstConfig(head=HeadConfig(chunk_tokens=20))):
        loss = got(**batch, use_cache=False).loss
    torch.testing.assert_close(loss, plain_loss(wanted, batch), rtol=1e-12, atol=0)
    logits = wanted(input_ids=batch["input_ids"], use_cache=False).logits[0]
    means = [
        F.cross_entropy(logits[part], batch["shift_labels"][0, part])
        for part in (slice(0, 20), slice(20, 40))
    ]
    assert abs(float((torch.stack(means).mean() - loss).detach())) > 1e-3


def test_labels_are_shifted_before_anything_is_cut():
    """Otherwise the last position of every chunk predicts nothing."""
    got = model()
    ids = training_batch(VOCAB, batch=2, tokens=24)["input_ids"]
    losses = []
    for chunk in (1, 5, 48):
        with apply_mst(got, MstConfig(head=HeadConfig(chunk_tokens=chunk))):
            losses.append(got(input_ids=ids, labels=ids, use_cache=False).loss)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-12, atol=0)
    torch.testing.assert_close(losses[1], losses[2], rtol=1e-12, atol=0)


def test_evaluation_has_metrics_without_scores():
    """Unsloth 3126: logits are missing, and so is everything made of them."""
    module = model().eval()
    batch = training_batch(VOCAB)
    with torch.no_grad():
        logits = module(input_ids=batch["input_ids"], use_cache=False).logits
        with apply_mst(module, tile_tokens=8, chunk_tokens=6) as handle, LiveBytes() as counter:
            output = module(**batch, use_cache=False)
        scores = handle.scores(output, batch["shift_labels"])
    with pytest.raises(UserError, match="token_scores"):
        output.logits.argmax(-1)
    assert counter.max_numel < logits.numel()
    wanted = (logits.argmax(-1) == batch["shift_labels"]).sum()
    assert int(scores.num_correct) == int(wanted)


@pytest.mark.parametrize("strategy", list(HeadStrategy))
def test_a_chunked_head_keeps_no_chunk(strategy):
    """Labs-molt 121: chunked in forward, all of it kept for backward."""
    rows, hidden, vocab = 400, 8, 300
    h = torch.randn(rows, hidden, requires_grad=True)
    w = torch.randn(vocab, hidden, requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.long)
    with LiveBytes() as counter:
        loss = linear_cross_entropy(h, w, labels, chunk_tokens=20, strategy=strategy).loss
        alive = counter.live
    gradients_only = 4 * hidden * (rows + vocab)
    kept = gradients_only if strategy is HeadStrategy.GRAD_IN_FORWARD else 0
    assert alive <= kept + 4096
    loss.backward()
