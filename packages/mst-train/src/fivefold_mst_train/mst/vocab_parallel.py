"""A head whose vocabulary is shared by processes: each holds some rows of the weight.

For every chunk the largest score, then the sums (of exponentials, of the label's score) and at last
the gradient of the hidden states are reduced over the processes: three collective calls, so all
processes must cut as many chunks. Source: arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fivefold import UserError
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .._words import Score
from .chunk_loss import ChunkResult, LossTerms
from .sums import HALF, GradientSums


@dataclass(frozen=True)
class ShardedHead:
    """The rows of a head's weight that this process holds."""

    weight: Float[Tensor, "part hidden"]
    start: int
    """Token of the first row."""
    vocab: int
    """Tokens of the whole vocabulary."""
    group: Any = None
    """The processes that share it; None: all."""

    @property
    def parameters(self) -> list[Tensor]:
        """The rows, whose gradient stays with this process."""
        return [self.weight]

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
        """Compute a chunk; see `chunk_loss`.

        Raises:
            UserError: results of single positions other than their likelihood are asked for.
        """
        if terms.scores - {Score.NLL}:
            raise UserError(
                "a head shared by processes has no results of single positions but `nll`",
                setting="training.head.returns",
                remedy="leave them out",
            )
        scores = F.linear(hidden, self.weight)
        dtype = scores.dtype
        law = scores.float() if dtype in HALF else scores
        counts = labels != terms.ignore_index
        place = labels - self.start
        is_here = counts & (place >= 0) & (place < len(self.weight))
        safe = place.masked_fill(~is_here, 0)[:, None]
        target = law.gather(1, safe).squeeze(1) * is_here
        whole = law.sum(-1)
        top = law.amax(-1)
        dist.all_reduce(top, dist.ReduceOp.MAX, group=self.group)
        total = law.sub_(top[:, None]).exp_().sum(-1)
        reduced = torch.stack([target, whole, total])
        dist.all_reduce(reduced, group=self.group)
        target, whole, total = reduced
        lse = total.log() + top
        nll = (lse - target).masked_fill(~counts, 0)
        loss = (1 - terms.label_smoothing) * (lse - target)
        loss = loss + terms.label_smoothing * (lse - whole / self.vocab)
        loss = (loss + terms.z_loss * lse.square()).masked_fill(~counts, 0)
        result = ChunkResult(loss, {Score.NLL: nll} if Score.NLL in terms.scores else {})
        if sums is None:
            return result
        law.mul_(((1 + 2 * terms.z_loss * lse) / total)[:, None])
        law.sub_(terms.label_smoothing / self.vocab)
        law.scatter_add_(1, safe, ((terms.label_smoothing - 1) * is_here.to(law.dtype))[:, None])
        scale = counts.to(law.dtype) if row_scale is None else row_scale.to(law.dtype) * counts
        grad = law.mul_(scale[:, None]).to(dtype)
        if needs_hidden:
            result.of_hidden = grad @ self.weight
            dist.all_reduce(result.of_hidden, group=self.group)
        if wanted and wanted[0]:
            sums.add_product(0, grad, hidden)
        return result
