"""Heads of others: what they can do is exact, what they cannot is refused with the way out."""

import importlib.util

import pytest
import torch
from fivefold import UserError
from fivefold_mst_train._words import HeadImpl, Score
from fivefold_mst_train.mst.backends import backend_loss, check_installed
from fivefold_mst_train.mst.chunk_loss import LinearHead, LossTerms, OpaqueHead
from torch.nn import functional as F


def problem():
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 12, 8, generator=source, dtype=torch.float64).requires_grad_()
    weight = torch.randn(20, 8, generator=source, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 20, (2, 12), generator=source)
    labels[0, :5] = -100
    return hidden, weight, labels


def test_torchs_chunked_head_is_exact():
    hidden, weight, labels = problem()
    got = backend_loss(
        HeadImpl.TORCH, LinearHead(weight), hidden, labels, None, LossTerms(), 5
    ).loss
    wanted = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten())
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(got, (hidden, weight)),
        torch.autograd.grad(wanted, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("head", "terms", "wrong"),
    [
        (lambda w: LinearHead(w, transform=torch.tanh), LossTerms(), "scales or caps"),
        (lambda w: OpaqueHead(lambda x: x @ w.T, [w]), LossTerms(), "adapter"),
        (lambda w: LinearHead(w), LossTerms(scores=frozenset({Score.NLL})), "single positions"),
        (lambda w: LinearHead(w), LossTerms(z_loss=0.1), "z-loss"),
        (lambda w: LinearHead(w), LossTerms(label_smoothing=0.1), "label smoothing"),
    ],
)
def test_what_a_head_cannot_do_is_refused(head, terms, wrong):
    hidden, weight, labels = problem()
    with pytest.raises(UserError, match=rf"{wrong}.*head\.impl=torch.*eager"):
        backend_loss(HeadImpl.TORCH, head(weight), hidden, labels, None, terms, 5)


@pytest.mark.parametrize(
    ("impl", "package"), [("liger", "liger_kernel"), ("cce", "cut_cross_entropy")]
)
def test_a_head_that_is_not_installed_names_its_wheel(impl, package):
    if importlib.util.find_spec(package):
        pytest.skip("it is installed")
    with pytest.raises(UserError, match=rf"pip install {package.replace('_', '-')}"):
        check_installed(HeadImpl(impl))


@pytest.mark.parametrize("impl", [HeadImpl.LIGER, HeadImpl.CCE])
def test_kernels_for_a_gpu_are_refused_on_a_cpu(impl):
    hidden, weight, labels = problem()
    with pytest.raises(UserError, match="on the CPU"):
        backend_loss(impl, LinearHead(weight), hidden, labels, None, LossTerms(), 5)
