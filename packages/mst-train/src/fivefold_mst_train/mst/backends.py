"""Heads of others: torch's own chunked one, Liger's, Apple's; ours is `linear_cross_entropy.py`.

Each computes the summed loss of a plain linear head. What it cannot do (a transform of the scores,
per-token results, z-loss) is refused with the setting that helps.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from fivefold import UserError
from torch import Tensor, nn
from torch.nn import functional as F

from .._words import HeadImpl
from .chunk_loss import Head, LinearHead, LossTerms
from .linear_cross_entropy import HeadOutput, check_count, check_labels

Backend = Callable[[Tensor, Tensor, Tensor | None, Tensor, LossTerms, int], Tensor]
"""(hidden, weight, bias, labels, terms, chunk) -> summed loss."""


def backend_loss(
    impl: HeadImpl,
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    num_items: Tensor | int | None,
    terms: LossTerms,
    chunk: int,
) -> HeadOutput:
    """Compute the loss of a batch with another implementation.

    Args:
        impl: which.
        head: must be a plain linear one.
        hidden: [..., hidden].
        labels: [...], shifted already.
        num_items: what the sum is divided by; None: the labels that count.
        terms: what the loss is made of.
        chunk: positions of a chunk, for those that take one.

    Raises:
        UserError: it is not installed, does not run here, or lacks something that is asked for.
    """
    if not isinstance(head, LinearHead):
        raise _cannot(impl, "a head that an adapter wraps")
    if head.transform is not None:
        raise _cannot(impl, "scores that the model scales or caps")
    if terms.scores:
        raise _cannot(impl, "results of single positions (training.head.returns)")
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).to(hidden.device)
    check_count(targets, flat)
    check_labels(targets, head.weight.shape[0], terms.ignore_index)
    summed = _BACKENDS[impl](flat, head.weight, head.bias, targets, terms, chunk)
    if num_items is None:
        count = (targets != terms.ignore_index).sum().clamp(min=1)
    else:
        count = torch.as_tensor(num_items, device=summed.device).clamp(min=1)
    return HeadOutput(summed / count)


def check_installed(impl: HeadImpl) -> None:
    """Refuse an implementation whose package is missing, before training begins.

    Raises:
        UserError: says what to install.
    """
    if impl is HeadImpl.LIGER:
        _import("liger_kernel.transformers", "liger-kernel", impl)
    if impl is HeadImpl.CCE:
        _import("cut_cross_entropy", "cut-cross-entropy", impl)


def _torch(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    terms: LossTerms,
    chunk: int,
) -> Tensor:
    if terms.z_loss or terms.label_smoothing:  # smoothed, it would make all scores at once
        raise _cannot(HeadImpl.TORCH, "z-loss or label smoothing chunk by chunk")
    options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)
    return F.linear_cross_entropy(
        hidden, weight, labels,
        linear_bias=bias, reduction="sum", ignore_index=terms.ignore_index, options=options,
    )  # fmt: skip


def _liger(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    terms: LossTerms,
    chunk: int,
) -> Tensor:
    if hidden.device.type == "cpu":
        raise _cannot(HeadImpl.LIGER, "a model on the CPU")
    module = _import("liger_kernel.transformers", "liger-kernel", HeadImpl.LIGER)
    loss = module.LigerFusedLinearCrossEntropyLoss(
        ignore_index=terms.ignore_index,
        lse_square_scale=terms.z_loss,
        label_smoothing=terms.label_smoothing,
        reduction="sum",
        accum_dtype=torch.float32,
    )
    summed: Tensor = loss(weight, hidden, labels, bias)
    return summed


def _cce(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    terms: LossTerms,
    chunk: int,
) -> Tensor:
    if bias is not None or terms.z_loss or terms.label_smoothing:
        raise _cannot(HeadImpl.CCE, "a bias, z-loss or label smoothing")
    if hidden.device.type == "cpu":
        raise _cannot(HeadImpl.CCE, "a model on the CPU")
    module = _import("cut_cross_entropy", "cut-cross-entropy", HeadImpl.CCE)
    summed: Tensor = module.linear_cross_entropy(
        hidden, weight, labels,
        ignore_index=terms.ignore_index, reduction="sum", filter_eps=None, impl="cce",
    )  # fmt: skip
    return summed


_BACKENDS: dict[HeadImpl, Backend] = {
    HeadImpl.TORCH: _torch,
    HeadImpl.LIGER: _liger,
    HeadImpl.CCE: _cce,
}


def _import(module: str, wheel: str, impl: HeadImpl) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{wheel} cannot be imported: {error}",
            setting="training.head.impl",
            value=impl,
            remedy=f"pip install {wheel}, or set training.head.impl=eager",
        ) from error


def _cannot(impl: HeadImpl, what: str) -> UserError:
    return UserError(
        f"this head does not do {what}",
        setting="training.head.impl",
        value=impl,
        remedy="set training.head.impl=eager",
    )
