"""Losses against a teacher's law, a slice of tokens at a time: logits of all never exist at once.

Both compute the gradient in the forward pass and scale it in backward (strategy A of
arXiv 2407.15892's head, here for soft targets).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SLICE = 256
"""Tokens whose logits exist at a time."""


class _Divergence(torch.autograd.Function):
    """`divergence`, as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        rows: Tensor,
        teacher_hidden: Tensor,
        teacher_rows: Tensor,
        weights: Tensor,
        temperature: float,
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_rows = torch.zeros_like(rows, dtype=_wide(rows)) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=hidden.device, dtype=_wide(hidden))
        for at in range(0, hidden.shape[0], SLICE):
            part = slice(at, at + SLICE)
            own, taught = hidden[part].to(rows.dtype), teacher_hidden[part].to(teacher_rows.dtype)
            log_p = _log_law(taught, teacher_rows, temperature)  # [slice, word]
            log_q = _log_law(own, rows, temperature)
            p = log_p.exp()
            weight = weights[part].to(log_p).unsqueeze(1)
            total += (weight * p * (log_p - log_q)).sum()
            slope = (log_q.exp_() - p).mul_(weight * temperature).to(rows.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ rows
            if grad_rows is not None:
                grad_rows += (slope.mT @ own).to(grad_rows)
        ctx.save_for_backward(grad_hidden, None if grad_rows is None else grad_rows.to(rows))
        return total * temperature**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = [
            None if gradient is None else gradient * grads[0].to(gradient)
            for gradient in ctx.saved_tensors
        ]
        return *found, None, None, None, None


def divergence(
    hidden: Float[Tensor, "token hidden"],
    rows: Float[Tensor, "word hidden"],
    teacher_hidden: Float[Tensor, "token wide"],
    teacher_rows: Float[Tensor, "word wide"],
    weights: Float[Tensor, " token"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the weighted sum of KL(teacher || student), both laws over the same words.

    loss = T² · sum over tokens, weight · sum_k p_k (log p_k - log q_k)
    p = softmax(teacher_rows @ teacher_hidden / T),   q = softmax(rows @ hidden / T)

    Source: Hinton et al., arXiv 1503.02531, section 2 (the factor T²).

    Args:
        hidden: the student's last hidden states; gradients flow into them.
        rows: the student's output rows; gradients flow into them if they require any.
        teacher_hidden: the teacher's.
        teacher_rows: the teacher's output rows of the same words, in the same order.
        weights: of each token.
        temperature: T.
    """
    loss: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        hidden, rows, teacher_hidden, teacher_rows, weights, temperature
    )
    return loss


class _SoftCrossEntropy(torch.autograd.Function):
    """`soft_cross_entropy`, as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: Tensor, words: Tensor, probs: Tensor, weights: Tensor
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), device=hidden.device, dtype=_wide(probs))
        for at in range(0, hidden.shape[0], SLICE):
            part = slice(at, at + SLICE)
            law = F.linear(hidden[part].to(rows.dtype), rows)
            mass, top = probs[part].sum(1), law.amax(1, keepdim=True)
            fit = (probs[part] * (law.gather(1, words[part]) - top)).sum(1)
            whole = law.sub_(top).exp_().sum(1, dtype=_wide(law))
            total += (weights[part] * (mass * whole.log() - fit)).sum()
            law.mul_((weights[part] * mass / whole).unsqueeze(1).to(law.dtype))
            pull = -probs[part] * weights[part].unsqueeze(1)
            law.scatter_add_(1, words[part], pull.to(law.dtype))
            gradient[part] = (law @ rows).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient), None, None, None, None


def soft_cross_entropy(
    hidden: Float[Tensor, "token hidden"],
    rows: Float[Tensor, "word hidden"],
    words: Int[Tensor, "token kept"],
    probs: Float[Tensor, "token kept"],
    weights: Float[Tensor, " token"],
) -> Float[Tensor, ""]:
    """Return the weighted sum of cross entropies against the teacher's likeliest words alone.

    loss = sum over tokens, weight · (mass · logsumexp(z) - sum_k p_k z_k)
    z = rows @ hidden,   mass = sum_k p_k

    Args:
        hidden: the student's last hidden states; gradients flow into them alone.
        rows: output rows of the student's words.
        words: the teacher's likeliest words, as indices into the student's.
        probs: their probabilities; 0 where a word is none of the student's.
        weights: of each token.
    """
    loss: Tensor = _SoftCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, rows, words, probs, weights
    )
    return loss


def _log_law(hidden: Tensor, rows: Tensor, temperature: float) -> Tensor:
    logits = F.linear(hidden, rows)
    return (logits.to(_wide(logits)) / temperature).log_softmax(-1)


def _wide(values: Tensor) -> torch.dtype:
    """Return the format in which sums are kept: float32 for half precision, else its own."""
    return torch.promote_types(values.dtype, torch.float32)
