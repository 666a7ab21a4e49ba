"""The loss of one chunk of positions, and its gradients, written down by hand or by autograd.

For scores z of a position with label y, over V tokens, with smoothing e and z-loss weight w:

    lse  = log sum exp z
    loss = (1 - e) (lse - z_y) + e (lse - mean z) + w lse^2
    dz   = p (1 + 2 w lse) - (1 - e) onehot(y) - e / V        p = softmax z

Positions whose label is the ignored one have loss and gradient zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .._words import Score
from .sums import HALF, GradientSums

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossTerms:
    """What is added up over positions."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    scores: frozenset[Score] = frozenset()
    """What else is wanted of each position."""


@dataclass(frozen=True)
class LinearHead:
    """A head whose scores are `h @ weight^T + bias`, then maybe transformed."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None = None
    transform: Transform | None = None
    """What the model does to scores before the loss: a scale, a soft cap."""

    @property
    def parameters(self) -> list[Tensor]:
        """Parameters of the head, in the order in which gradients are returned."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]


@dataclass(frozen=True)
class OpaqueHead:
    """A head known only as a function, such as one wrapped by an adapter."""

    function: Callable[[Tensor], Tensor]
    parameters: Sequence[Tensor]
    """Its parameters that require a gradient."""
    transform: Transform | None = None


@runtime_checkable
class OwnHead(Protocol):
    """A head that computes its chunks itself, as one shared by processes does."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Its parameters, in the order in which gradients are returned."""
        ...

    def loss(
        self,
        hidden: Float[Tensor, "row hidden"],
        labels: Int[Tensor, " row"],
        terms: LossTerms,
        sums: GradientSums | None,
        *,
        wanted: Sequence[bool] = (),
        row_scale: Float[Tensor, " row"] | None = None,
        needs_hidden: bool = True,
    ) -> ChunkResult:
        """Compute a chunk, as `chunk_loss` does."""
        ...


Head = LinearHead | OpaqueHead | OwnHead


@dataclass
class ChunkResult:
    """What one chunk gave."""

    loss: Float[Tensor, " row"]
    """Of each position, zero where ignored; float32, or float64 for float64 scores."""
    scores: dict[Score, Tensor]
    """What was asked for of each position, [row]."""
    of_hidden: Float[Tensor, "row hidden"] | None = None
    """Gradient of the hidden states, where it was asked for."""


def chunk_loss(
    head: Head,
    hidden: Float[Tensor, "row hidden"],
    labels: Int[Tensor, " row"],
    terms: LossTerms,
    sums: GradientSums | None,
    *,
    wanted: Sequence[bool] = (),
    row_scale: Float[Tensor, " row"] | None = None,
    needs_hidden: bool = True,
) -> ChunkResult:
    """Compute the losses of a chunk and, with `sums`, its gradients.

    Args:
        head: makes scores of hidden states.
        hidden: of the chunk.
        labels: of the chunk, shifted already.
        terms: what the loss is made of.
        sums: is given the gradients of the wanted parameters; None: no gradient at all.
        wanted: which of the head's parameters have a place in `sums`.
        row_scale: gradient of each position's loss; None: 1.
        needs_hidden: whether the gradient of `hidden` is wanted.
    """
    if not isinstance(head, LinearHead | OpaqueHead):
        return head.loss(
            hidden, labels, terms, sums,
            wanted=wanted, row_scale=row_scale, needs_hidden=needs_hidden,
        )  # fmt: skip
    if isinstance(head, OpaqueHead):
        return _by_autograd(head, hidden, labels, terms, sums, wanted, row_scale)
    return _by_hand(head, hidden, labels, terms, sums, wanted, row_scale, needs_hidden)


def _by_hand(
    head: LinearHead,
    hidden: Tensor,
    labels: Tensor,
    terms: LossTerms,
    sums: GradientSums | None,
    wanted: Sequence[bool],
    row_scale: Tensor | None,
    needs_hidden: bool,
) -> ChunkResult:
    raw = F.linear(hidden, head.weight, head.bias)  # [row, vocab]
    scores, leaf = raw, raw
    if head.transform is not None:
        with torch.enable_grad():
            leaf = raw.detach().requires_grad_(sums is not None)
            scores = head.transform(leaf)
    dtype = scores.dtype
    law = scores.detach().float() if dtype in HALF else scores.detach()
    if head.transform is not None and law.data_ptr() == scores.data_ptr():
        law = law.clone()  # its last operation may have kept its result for backward
    if head.transform is None:
        del scores, leaf, raw
    result, lse = _losses_in_place(law, labels, terms, sums is not None)
    if sums is None:
        return result
    _gradient_in_place(law, lse, labels, terms, row_scale)
    grad = law.to(dtype)
    del law
    if head.transform is not None:
        (grad,) = torch.autograd.grad(scores, leaf, grad)
    if needs_hidden:
        result.of_hidden = grad @ head.weight
    place = 0
    for parameter, is_wanted in zip(head.parameters, wanted, strict=True):
        if is_wanted and parameter is head.weight:
            sums.add_product(place, grad, hidden)
        elif is_wanted:
            sums.add(place, grad.sum(0, dtype=torch.float32 if grad.dtype in HALF else None))
        place += is_wanted
    return result


def _losses_in_place(
    scores: Tensor, labels: Tensor, terms: LossTerms, needs_law: bool
) -> tuple[ChunkResult, Tensor]:
    """Return losses and log-sum-exps; `scores` becomes the law where it is needed."""
    counts = labels != terms.ignore_index
    safe = labels.masked_fill(~counts, 0)[:, None]
    target = scores.gather(1, safe).squeeze(1)
    mean = scores.mean(-1) if terms.label_smoothing else None
    found: dict[Score, Tensor] = {}
    top, best = scores.max(-1, keepdim=True)
    total = scores.sub_(top).exp_().sum(-1, keepdim=True)
    lse = (total.log() + top).squeeze(1)
    if needs_law or Score.ENTROPY in terms.scores:
        scores.div_(total)
    if Score.ENTROPY in terms.scores:
        found[Score.ENTROPY] = torch.special.entr(scores).sum(-1)
    nll = lse - target
    loss = (1 - terms.label_smoothing) * nll
    if mean is not None:
        loss = loss + terms.label_smoothing * (lse - mean)
    if terms.z_loss:
        loss = loss + terms.z_loss * lse.square()
    if Score.NLL in terms.scores:
        found[Score.NLL] = nll.masked_fill(~counts, 0)
    if Score.ARGMAX in terms.scores:
        found[Score.ARGMAX] = best.squeeze(1)
    if Score.ACCURACY in terms.scores:
        found[Score.ACCURACY] = (best.squeeze(1) == labels) & counts
    return ChunkResult(loss.masked_fill(~counts, 0), found), lse


def _gradient_in_place(
    law: Tensor, lse: Tensor, labels: Tensor, terms: LossTerms, row_scale: Tensor | None
) -> None:
    """Turn the law of each position into the gradient of its scores."""
    counts = labels != terms.ignore_index
    safe = labels.masked_fill(~counts, 0)[:, None]
    if terms.z_loss:
        law.mul_((1 + 2 * terms.z_loss * lse)[:, None])
    if terms.label_smoothing:
        law.sub_(terms.label_smoothing / law.shape[-1])
    law.scatter_add_(1, safe, torch.full_like(law[:, :1], terms.label_smoothing - 1))
    scale = counts.to(law.dtype) if row_scale is None else row_scale.to(law.dtype) * counts
    law.mul_(scale[:, None])


def _by_autograd(
    head: OpaqueHead,
    hidden: Tensor,
    labels: Tensor,
    terms: LossTerms,
    sums: GradientSums | None,
    wanted: Sequence[bool],
    row_scale: Tensor | None,
) -> ChunkResult:
    with torch.set_grad_enabled(sums is not None):
        leaf = hidden.detach().requires_grad_(sums is not None)
        scores = head.function(leaf)
        if head.transform is not None:
            scores = head.transform(scores)
        wide = scores.float() if scores.dtype in HALF else scores
        counts = labels != terms.ignore_index
        safe = labels.masked_fill(~counts, 0)
        lse = wide.logsumexp(-1)
        nll = F.cross_entropy(wide, safe, reduction="none")
        loss = (1 - terms.label_smoothing) * nll
        if terms.label_smoothing:
            loss = loss + terms.label_smoothing * (lse - wide.mean(-1))
        if terms.z_loss:
            loss = loss + terms.z_loss * lse.square()
        loss = loss.masked_fill(~counts, 0)
    result, _ = _losses_in_place(wide.detach().clone(), labels, terms, False)
    result.loss = loss.detach()
    if sums is None:
        return result
    parameters = [p for p, is_wanted in zip(head.parameters, wanted, strict=True) if is_wanted]
    upstream = torch.ones_like(loss) if row_scale is None else row_scale.to(loss.dtype)
    grads = torch.autograd.grad(loss, (leaf, *parameters), upstream, allow_unused=True)
    result.of_hidden = grads[0]
    for place, grad in enumerate(grads[1:]):
        sums.add(place, grad)
    return result
