"""The loss of labelled vertices, normalised over the whole graph whatever part is at hand."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from torch import Tensor

from .graph import GraphData


def node_loss(
    logits: Float[Tensor, "node class"],
    y: Num[Tensor, " node"] | Num[Tensor, "node class"],
    mask: Bool[Tensor, " node"],
    total: int,
) -> Float[Tensor, ""]:
    """Return the loss of some vertices: their sum over `total`.

    Cross entropy for one class a vertex, binary cross entropy for several; of a part without a
    labelled vertex it is 0, and its gradient too. The sum over parts is the graph's loss.

    Args:
        logits: scores.
        y: classes (-1 unknown), or 0/1 for each.
        mask: vertices that count.
        total: `num_terms` of the whole graph.
    """
    if y.ndim == 2:
        each = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")
        return (each * mask[:, None]).sum() / total
    counts = mask & (y >= 0)
    each = F.cross_entropy(logits, y.clamp(min=0), reduction="none")
    return (each * counts).sum() / total


def num_terms(data: GraphData) -> int:
    """Return how many terms the training loss of a graph averages: labelled vertices, or entries.

    Of a multi-label graph every entry of a training vertex is one.
    """
    count = int((data.train_mask & data.labels_known).sum())
    return count * data.num_classes if data.is_multilabel else count
