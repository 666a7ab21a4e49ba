"""Cross entropy of an LM head, chunk by chunk: scores of the whole sequence never exist.

Two ways. Gradients in forward: a chunk's scores are made once, turned into their gradient in place
and multiplied out, three products in all; backward only scales. Recompute: forward keeps nothing,
backward makes each chunk's scores again, four products; it is what per-token losses need.

Both add up sums over chunks and divide once by the number of labels that count; the mean of the
chunks' means is another number. Source: arXiv 2407.15892, algorithm 2, whose code recomputes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fivefold import UserError
from jaxtyping import Float, Int
from torch import Tensor

from .._words import HeadStrategy, Score
from .ambient import Autocast
from .chunk_loss import ChunkResult, Head, LinearHead, LossTerms, Transform, chunk_loss
from .sums import HALF, GradientSums
from .tiles import cut
from .vocab_parallel import ShardedHead


@dataclass
class HeadOutput:
    """What the head gives in place of logits."""

    loss: Float[Tensor, "*rows"]
    """Sum over the labels that count, divided by their number; or [row] with `reduction=none`."""
    scores: dict[Score, Tensor] = field(default_factory=dict)
    """What was asked for of each position, in the labels' shape, without gradients."""


@dataclass
class ChunkedCall:
    """One call of a head, chunk by chunk."""

    head: Head
    labels: Int[Tensor, " row"]
    terms: LossTerms
    chunk: int
    in_float32: bool
    per_token: bool
    autocast: Autocast
    scores: dict[Score, list[Tensor]] = field(default_factory=dict)

    def chunks(self) -> Iterator[slice]:
        """Yield the rows of every chunk."""
        is_summed = not (self.per_token or self.terms.scores)
        return cut(len(self.labels), self.chunk, is_planned=self.labels.is_meta and is_summed)

    def losses(self, hidden: Tensor) -> Tensor:
        """Return the loss of every row, or their sum, without gradients."""
        found = [self._keep(self._one(hidden, rows, None)).loss for rows in self.chunks()]
        return torch.cat(found) if self.per_token else _total(found)

    def losses_and_gradients(
        self, hidden: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Return the summed loss, the gradient of `hidden`, and the sums of the parameters'.

        The parameters' are in the format in which they were added up.
        """
        sums, of_hidden = self._sums(needs), torch.empty_like(hidden) if needs[0] else None
        found = []
        for rows in self.chunks():
            result = self._keep(self._one(hidden, rows, sums, needs))
            found.append(result.loss.sum())
            _put(of_hidden, rows, result)
        return _total(found), of_hidden, self._spread(sums.take_wide(), needs)

    def gradients(
        self, hidden: Tensor, upstream: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Compute scores again and return the gradients of `hidden` and of the parameters."""
        sums, of_hidden = self._sums(needs), torch.empty_like(hidden) if needs[0] else None
        scale = upstream if self.per_token else upstream.expand(len(self.labels))
        with self.autocast.replay():
            for rows in self.chunks():
                _put(of_hidden, rows, self._one(hidden, rows, sums, needs, scale[rows]))
        return of_hidden, self._spread(sums.take(), needs)

    def _one(
        self,
        hidden: Tensor,
        rows: slice,
        sums: GradientSums | None,
        needs: Sequence[bool] = (),
        row_scale: Tensor | None = None,
    ) -> ChunkResult:
        return chunk_loss(
            self.head, hidden[rows], self.labels[rows], self.terms, sums,
            wanted=needs[1:], row_scale=row_scale, needs_hidden=bool(needs) and needs[0],
        )  # fmt: skip

    def _sums(self, needs: Sequence[bool]) -> GradientSums:
        wanted = [p for p, is_it in zip(self.head.parameters, needs[1:], strict=True) if is_it]
        return GradientSums(wanted, self.in_float32)

    def _keep(self, result: ChunkResult) -> ChunkResult:
        for kind, values in result.scores.items():
            self.scores.setdefault(kind, []).append(values)
        return result

    @staticmethod
    def _spread(grads: list[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
        found = iter(grads)
        return [next(found) if is_needed else None for is_needed in needs[1:]]


class _GradientsInForward(torch.autograd.Function):
    """Strategy A: everything is computed with the loss; backward scales it."""

    @staticmethod
    def forward(ctx: Any, call: ChunkedCall, hidden: Tensor, *parameters: Tensor) -> Tensor:
        needs = ctx.needs_input_grad[1:]
        loss, of_hidden, of_parameters = call.losses_and_gradients(hidden, needs)
        ctx.held = [of_hidden, *of_parameters]
        ctx.dtypes = [hidden.dtype, *(each.dtype for each in parameters)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.held is None:
            raise RuntimeError(
                "backward ran through this loss before; keep the graph (retain_graph=True), or set "
                "training.head.strategy=recompute"
            )
        is_last = not torch._C._autograd._get_current_graph_task_keep_graph()
        held, ctx.held = ctx.held, None if is_last else ctx.held
        scaled: list[Tensor | None] = []
        for grad, dtype in zip(held, ctx.dtypes, strict=True):
            scaled.append(None if grad is None else _scaled(grad, upstream, dtype, is_last))
        return (None, *scaled)


class _Recompute(torch.autograd.Function):
    """Strategy B: backward makes the scores again."""

    @staticmethod
    def forward(ctx: Any, call: ChunkedCall, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(hidden)
        return call.losses(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        of_hidden, rest = ctx.call.gradients(hidden, upstream, ctx.needs_input_grad[1:])
        return (None, of_hidden, *rest)


def chunked_loss(
    head: Head,
    hidden: Float[Tensor, "*rows hidden"],
    labels: Int[Tensor, "*rows"],
    *,
    num_items: Tensor | int | None = None,
    chunk_tokens: int,
    terms: LossTerms,
    strategy: HeadStrategy = HeadStrategy.GRAD_IN_FORWARD,
    in_float32: bool = True,
    drop_ignored: bool = False,
    per_token: bool = False,
) -> HeadOutput:
    """Compute the loss of any head chunk by chunk; see `linear_cross_entropy`.

    Raises:
        UserError: there are not as many labels as positions, or a label is no token of the
            vocabulary (looked at on the CPU only: elsewhere it would stop the device).
    """
    shape = labels.shape
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).to(hidden.device)
    check_count(targets, flat)
    if isinstance(head, LinearHead):
        check_labels(targets, head.weight.shape[0], terms.ignore_index)
    counts = targets != terms.ignore_index
    kept: Tensor | None = None
    if drop_ignored and not targets.is_meta:  # a plan counts with all of them
        kept = counts.nonzero().squeeze(1)
        flat, targets = flat[kept], targets[kept]
    call = ChunkedCall(
        head, targets, terms, chunk_tokens, in_float32, per_token, Autocast.capture(hidden.device)
    )
    parameters = list(head.parameters)
    wants = flat.requires_grad or any(each.requires_grad for each in parameters)
    if not len(targets):
        loss = 0 * flat.sum(dtype=torch.float32 if flat.dtype in HALF else None)
    elif not (torch.is_grad_enabled() and wants):
        loss = call.losses(flat)
    elif strategy is HeadStrategy.RECOMPUTE or per_token:
        loss = _Recompute.apply(call, flat, *parameters)  # type: ignore[no-untyped-call]
    else:
        loss = _GradientsInForward.apply(call, flat, *parameters)  # type: ignore[no-untyped-call]
    scores = {kind: torch.cat(parts) for kind, parts in call.scores.items()}
    if kept is not None:
        scores = {kind: _scattered(each, kept, counts) for kind, each in scores.items()}
    scores = {kind: each.reshape(shape) for kind, each in scores.items()}
    if per_token:
        full = loss if kept is None else torch.zeros_like(counts, dtype=loss.dtype)
        if kept is not None:
            full = full.index_put((kept,), loss)
        return HeadOutput(full.reshape(shape), scores)
    return HeadOutput(loss / _divisor(num_items, counts, loss), scores)


def linear_cross_entropy(
    hidden: Float[Tensor, "*rows hidden"],
    weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, "*rows"],
    bias: Float[Tensor, " vocab"] | None = None,
    *,
    transform: Transform | None = None,
    num_items: Tensor | int | None = None,
    chunk_tokens: int = 2048,
    strategy: HeadStrategy | str = HeadStrategy.GRAD_IN_FORWARD,
    in_float32: bool = True,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    drop_ignored: bool = False,
    returns: Sequence[Score | str] = (),
    reduction: str = "mean",
) -> HeadOutput:
    """Compute the cross entropy of `transform(hidden @ weight^T + bias)` with labels, in chunks.

    Bytes alive at a time: scores of `chunk_tokens` positions, twice for half-precision weights,
    and gradients of `hidden` and `weight`. Products: 6 N d V flops, 8 N d V with `recompute`.
    Exact: no term is left out, sums of half-precision gradients are kept in float32.

    Args:
        hidden: last hidden states.
        weight: of the head.
        labels: shifted already; `ignore_index` counts for nothing.
        bias: of the head.
        transform: applied to scores before the loss (a soft cap, a scale); differentiable,
            row by row.
        num_items: what the summed loss is divided by; None: the labels that count, at least 1.
        chunk_tokens: positions of a chunk.
        strategy: `grad_in_forward` or `recompute`.
        in_float32: add up half-precision weight gradients in float32.
        ignore_index: the label that counts for nothing.
        label_smoothing: share of each label spread over the vocabulary.
        z_loss: weight of the squared log-sum-exp.
        drop_ignored: leave ignored positions out before the product; costs a synchronisation.
        returns: `nll`, `accuracy`, `argmax`, `entropy` of each position, computed on the way.
        reduction: `mean` (the sum divided by `num_items`), or `none`: a loss a position, whose
            gradient is recomputed.

    Source: arXiv 2407.15892, algorithm 2.
    """
    terms = LossTerms(ignore_index, label_smoothing, z_loss, frozenset(map(Score, returns)))
    return chunked_loss(
        LinearHead(weight, bias, transform), hidden, labels,
        num_items=num_items, chunk_tokens=chunk_tokens, terms=terms,
        strategy=HeadStrategy(strategy), in_float32=in_float32, drop_ignored=drop_ignored,
        per_token=reduction == "none",
    )  # fmt: skip


def vocab_parallel_cross_entropy(
    hidden: Float[Tensor, "*rows hidden"],
    weight: Float[Tensor, "part hidden"],
    labels: Int[Tensor, "*rows"],
    *,
    start: int,
    vocab: int,
    group: Any = None,
    num_items: Tensor | int | None = None,
    chunk_tokens: int = 2048,
    strategy: HeadStrategy = HeadStrategy.GRAD_IN_FORWARD,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    returns: Sequence[Score | str] = (),
) -> HeadOutput:
    """Compute the same loss where processes hold parts of the vocabulary.

    Every process is given the same hidden states and labels, and cuts the same chunks; each gets
    the whole loss, the whole gradient of `hidden` and the gradient of its own rows.

    Args:
        hidden: last hidden states.
        weight: rows of the head that this process holds.
        labels: shifted already; tokens of the whole vocabulary.
        start: token of the first row.
        vocab: tokens of the whole vocabulary.
        group: the processes; None: all.
        num_items: what the summed loss is divided by; None: the labels that count.
        chunk_tokens: positions of a chunk.
        strategy: `grad_in_forward` or `recompute`.
        label_smoothing: share of each label spread over the vocabulary.
        z_loss: weight of the squared log-sum-exp.
        returns: `nll` of each position.
    """
    check_labels(labels.reshape(-1), vocab, -100)
    terms = LossTerms(-100, label_smoothing, z_loss, frozenset(map(Score, returns)))
    return chunked_loss(
        ShardedHead(weight, start, vocab, group), hidden, labels,
        num_items=num_items, chunk_tokens=chunk_tokens, terms=terms,
        strategy=HeadStrategy(strategy),
    )  # fmt: skip


def check_count(labels: Int[Tensor, " row"], hidden: Float[Tensor, "position hidden"]) -> None:
    """Refuse more or fewer labels than positions.

    Raises:
        UserError: says how many of each there are.
    """
    if len(labels) != len(hidden):
        raise UserError(
            f"{len(labels)} labels for {len(hidden)} positions",
            setting="labels",
            remedy="give a label a position, and -100 where nothing is to be learnt",
        )


def check_labels(labels: Int[Tensor, " row"], vocab: int, ignore_index: int) -> None:
    """Refuse labels that are no tokens, where looking costs no synchronisation.

    Raises:
        UserError: names the label and the vocabulary.
    """
    if labels.device.type != "cpu" or not len(labels):
        return
    counted = labels[labels != ignore_index]
    if len(counted) and not 0 <= int(counted.min()) <= int(counted.max()) < vocab:
        wrong = int(counted.max()) if int(counted.max()) >= vocab else int(counted.min())
        raise UserError(
            f"label {wrong} is no token: the vocabulary has {vocab}",
            setting="labels",
            value=wrong,
            remedy=f"tokenise with the model's own tokenizer; {ignore_index} marks what to ignore",
        )


def _total(losses: list[Tensor]) -> Tensor:
    return torch.stack([each.sum() for each in losses]).sum()


def _put(of_hidden: Tensor | None, rows: slice, result: ChunkResult) -> None:
    if of_hidden is not None and result.of_hidden is not None:
        of_hidden[rows] = result.of_hidden
        result.of_hidden = None


def _scattered(values: Tensor, kept: Tensor, counts: Tensor) -> Tensor:
    return torch.zeros_like(counts, dtype=values.dtype).index_put((kept,), values)


def _divisor(num_items: Tensor | int | None, counts: Tensor, loss: Tensor) -> Tensor:
    if num_items is None:
        return counts.sum().clamp(min=1).to(loss.dtype)
    return torch.as_tensor(num_items, device=loss.device).clamp(min=1).to(loss.dtype)


def _scaled(grad: Tensor, scale: Tensor, dtype: torch.dtype, in_place: bool) -> Tensor:
    """Multiply in float32 where `grad` is in half precision: 1/n may underflow there."""
    if grad.dtype in HALF:
        made = grad if in_place else torch.empty_like(grad)
        for start in range(0, len(grad), 4096):
            rows = slice(start, start + 4096)
            made[rows] = grad[rows].float() * scale
        return made.to(dtype)
    made = grad.mul_(scale) if in_place else grad * scale
    return made.to(dtype)
