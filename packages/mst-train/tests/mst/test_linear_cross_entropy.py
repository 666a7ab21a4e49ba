"""The chunked head against torch's cross entropy of whole scores."""

import pytest
import torch
from fivefold import UserError
from fivefold_mst_train import LiveBytes, linear_cross_entropy
from fivefold_mst_train._words import Score
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

ROWS, HIDDEN, VOCAB = 23, 7, 31
STRATEGIES = ["grad_in_forward", "recompute"]


def problem(dtype=torch.float64, rows=ROWS, bias=True, ignored="prefix", seed=0):
    source = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, HIDDEN, generator=source).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=source).to(dtype).requires_grad_()
    offset = torch.randn(VOCAB, generator=source).to(dtype).requires_grad_() if bias else None
    labels = torch.randint(0, VOCAB, (rows,), generator=source)
    places = {"none": [], "prefix": range(rows // 3), "chunk": range(5, min(10, rows)),
              "all": range(rows)}[ignored]  # fmt: skip
    labels[list(places)] = -100
    return hidden, weight, offset, labels


def reference(hidden, weight, bias, labels, *, cap=None, smoothing=0.0, z_loss=0.0, items=None):
    """The same from all scores at once."""
    scores = F.linear(hidden, weight, bias)
    scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    counts = labels != -100
    safe = labels.masked_fill(~counts, 0)
    each = F.cross_entropy(scores, safe, reduction="none", label_smoothing=smoothing)
    each = (each + z_loss * scores.logsumexp(-1).square()) * counts
    return each.sum() / (counts.sum().clamp(min=1) if items is None else items)


def compare(got, wanted, inputs, tolerance=1e-12, scale=1.0):
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    inputs = [each for each in inputs if each is not None]
    found = torch.autograd.grad(got * scale, inputs)
    expected = torch.autograd.grad(wanted * scale, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ignored", ["none", "prefix", "chunk", "all"])
@pytest.mark.parametrize("chunk", [1, 5, 23, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients(strategy, ignored, chunk, bias):
    given = problem(bias=bias, ignored=ignored)
    hidden, weight, offset, labels = given
    got = linear_cross_entropy(
        hidden, weight, labels, offset, chunk_tokens=chunk, strategy=strategy
    ).loss
    compare(got, reference(*given), given[:3])


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(STRATEGIES), st.integers(1, 30), st.integers(1, 40),
    st.sampled_from([None, 0.7, 30.0]), st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 1e-2]), st.booleans(), st.integers(0, 5),
)  # fmt: skip
def test_every_term_together(strategy, rows, chunk, cap, smoothing, z_loss, drop, seed):
    """Soft cap, smoothing, z-loss, dropped rows, a divisor of the whole step; loss scaled."""
    given = problem(rows=rows, seed=seed)
    hidden, weight, offset, labels = given
    transform = None if cap is None else (lambda scores: cap * torch.tanh(scores / cap))
    got = linear_cross_entropy(
        hidden, weight, labels, offset, transform=transform, chunk_tokens=chunk,
        strategy=strategy, label_smoothing=smoothing, z_loss=z_loss, drop_ignored=drop,
        num_items=torch.tensor(77),
    ).loss  # fmt: skip
    wanted = reference(*given, cap=cap, smoothing=smoothing, z_loss=z_loss, items=77)
    compare(got, wanted, given[:3], tolerance=1e-11, scale=3.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_by_finite_differences(strategy):
    """Invariant 8."""
    hidden, weight, offset, labels = problem(rows=6)

    def function(hidden, weight, offset):
        return linear_cross_entropy(
            hidden, weight, labels, offset, chunk_tokens=4, strategy=strategy, z_loss=0.1
        ).loss

    assert torch.autograd.gradcheck(function, (hidden, weight, offset))


def test_a_second_backward_says_what_to_do():
    hidden, weight, offset, labels = problem()
    loss = linear_cross_entropy(hidden, weight, labels, offset, chunk_tokens=4).loss
    loss.backward()
    with pytest.raises(RuntimeError):
        loss.backward()


def test_losses_of_single_positions_are_differentiable():
    """Weights a token, which gradients in forward cannot do (Liger 968)."""
    hidden, weight, offset, labels = problem()
    weights = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    each = linear_cross_entropy(
        hidden, weight, labels, offset, chunk_tokens=4, reduction="none"
    ).loss
    safe = labels.masked_fill(labels == -100, 0)
    wanted = F.cross_entropy(F.linear(hidden, weight, offset), safe, reduction="none")
    wanted = wanted * (labels != -100)
    torch.testing.assert_close(each, wanted, rtol=1e-12, atol=1e-12)
    compare((each * weights).sum(), (wanted * weights).sum(), (hidden, weight, offset))


def test_scores_of_single_positions_are_those_of_the_logits():
    hidden, weight, offset, labels = problem()
    given = labels.view(1, ROWS)
    out = linear_cross_entropy(
        hidden.view(1, ROWS, HIDDEN), weight, given, offset, chunk_tokens=4,
        returns=["nll", "accuracy", "argmax", "entropy"],
    )  # fmt: skip
    logits = F.linear(hidden, weight, offset).detach()
    law = logits.log_softmax(-1)
    counts = labels != -100
    nll = -law.gather(1, labels.masked_fill(~counts, 0)[:, None]).squeeze(1) * counts
    torch.testing.assert_close(out.scores[Score.NLL][0], nll)
    assert torch.equal(out.scores[Score.ARGMAX][0], logits.argmax(-1))
    assert torch.equal(out.scores[Score.ACCURACY][0], (logits.argmax(-1) == labels) & counts)
    torch.testing.assert_close(out.scores[Score.ENTROPY][0], -(law.exp() * law).sum(-1))


def test_scores_of_dropped_positions_are_zero():
    hidden, weight, offset, labels = problem()
    kept, dropped = (
        linear_cross_entropy(
            hidden, weight, labels, offset, chunk_tokens=4, drop_ignored=drop, returns=["nll"]
        ).scores[Score.NLL]
        for drop in (False, True)
    )
    torch.testing.assert_close(kept, dropped)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_without_labels_has_loss_zero_and_gradients_of_zero(strategy):
    """Invariant 14."""
    hidden, weight, offset, labels = problem(ignored="all")
    for drop in (False, True):
        loss = linear_cross_entropy(
            hidden, weight, labels, offset, chunk_tokens=4, strategy=strategy, drop_ignored=drop
        ).loss
        assert float(loss.detach()) == 0.0
        (grad,) = torch.autograd.grad(loss, hidden)
        assert not grad.any()


def test_frozen_weight_costs_no_gradient():
    """As under LoRA: no tensor of the weight's shape is made (6.9)."""
    hidden, weight, _, labels = problem(bias=False)
    weight.requires_grad_(False)
    with LiveBytes(shapes=True) as counter:
        linear_cross_entropy(hidden, weight, labels, chunk_tokens=4).loss.backward()
    assert (VOCAB, HIDDEN) not in counter.sizes
    assert hidden.grad is not None


def test_evaluation_makes_no_gradient():
    """Invariant 12."""
    hidden, weight, offset, labels = problem()
    with torch.no_grad(), LiveBytes(shapes=True) as counter:
        linear_cross_entropy(hidden, weight, labels, offset, chunk_tokens=4)
    assert (VOCAB, HIDDEN) not in counter.sizes
    assert (ROWS, HIDDEN) not in counter.sizes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_is_near_the_exact_gradient(dtype, strategy):
    """Sums over chunks are kept in float32: as near as one product of all rows."""
    hidden, weight, offset, labels = problem(dtype)
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight, offset)]
    wanted = torch.autograd.grad(reference(*exact, labels), exact)
    got = torch.autograd.grad(
        linear_cross_entropy(
            hidden, weight, labels, offset, chunk_tokens=2, strategy=strategy
        ).loss,
        (hidden, weight, offset),
    )
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        assert float((one.double() - other).norm() / other.norm()) < 0.02


def test_a_scaled_half_precision_loss_does_not_underflow():
    """fp16 with a GradScaler: p / n would be zero before the scale arrives."""
    hidden, weight, offset, labels = problem(torch.float16)
    loss = linear_cross_entropy(
        hidden, weight, labels, offset, chunk_tokens=4, num_items=torch.tensor(2_000_000)
    ).loss
    (loss * 65536.0).backward()
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight, offset)]
    (reference(*exact, labels, items=2_000_000) * 65536.0).backward()
    error = (weight.grad.double() - exact[1].grad).norm() / exact[1].grad.norm()
    assert float(error) < 0.02


def test_scores_of_the_whole_sequence_never_exist():
    """Invariant 3 on the function itself."""
    rows, vocab, hidden = 400, 300, 16
    h = torch.randn(rows, hidden, requires_grad=True)
    w = torch.randn(vocab, hidden, requires_grad=True)
    for strategy in STRATEGIES:
        with LiveBytes() as counter:
            linear_cross_entropy(
                h, w, torch.zeros(rows, dtype=torch.long), chunk_tokens=20, strategy=strategy
            ).loss.backward()
        assert counter.max_numel < rows * vocab / 10


def test_autocast_of_forward_holds_in_backward():
    hidden, weight, offset, labels = problem(torch.float32)
    losses = []
    for strategy in STRATEGIES:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = linear_cross_entropy(
                hidden, weight, labels, offset, chunk_tokens=4, strategy=strategy
            ).loss
        (grad,) = torch.autograd.grad(loss, weight)
        losses.append((loss.detach(), grad))
    assert losses[0][1].dtype == torch.float32
    torch.testing.assert_close(losses[0][0], losses[1][0])
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("label", [VOCAB, -1])
def test_a_label_that_is_no_token_is_refused(label):
    hidden, weight, offset, labels = problem()
    labels[2] = label
    labels[:2] = 0
    with pytest.raises(UserError, match=rf"label {label} is no token.*{VOCAB}"):
        linear_cross_entropy(hidden, weight, labels, offset)
