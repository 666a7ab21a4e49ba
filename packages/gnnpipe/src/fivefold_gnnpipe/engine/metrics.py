"""How good predictions are: accuracy, or micro-averaged F1 where a vertex has several labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from jaxtyping import Bool, Float, Num
from torch import Tensor

from .graph import GraphData


@dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1; `None` where no labelled vertex is in the mask."""

    train: float | None
    val: float | None
    test: float | None

    def named(self, prefix: str = "") -> dict[str, float | None]:
        """Return the scores by name: `{prefix}train` and so on."""
        return {f"{prefix}{name}": value for name, value in asdict(self).items()}


def score(logits: Float[Tensor, "node class"], data: GraphData) -> Scores:
    """Return a graph's scores: accuracy, or micro-F1 (threshold 1/2) with several labels."""
    of = micro_f1 if data.is_multilabel else accuracy
    masks = (data.train_mask, data.val_mask, data.test_mask)
    return Scores(*(of(logits, data.y, mask & data.labels_known) for mask in masks))


def accuracy(
    logits: Float[Tensor, "node class"], y: Num[Tensor, " node"], mask: Bool[Tensor, " node"]
) -> float | None:
    """Return the share of vertices whose highest score is their class; `None` of none."""
    count = int(mask.sum())
    return float((logits.argmax(1) == y)[mask].sum()) / count if count else None


def micro_f1(
    logits: Float[Tensor, "node class"], y: Num[Tensor, "node class"], mask: Bool[Tensor, " node"]
) -> float | None:
    """Return 2TP / (2TP + FP + FN) over all entries of the vertices; `None` of none."""
    if not bool(mask.any()):
        return None
    said, true = logits[mask] > 0, y[mask] > 0
    hits = int((said & true).sum())
    marked = int(said.sum()) + int(true.sum())
    return 2 * hits / marked if marked else 1.0


class BestEpoch:
    """The picking rule of every method: highest validation score, the earliest of equals.

    Without labelled validation vertices the newest evaluation is taken.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.scores: Scores | None = None

    def offer(self, epoch: int, scores: Scores) -> bool:
        """Take an evaluation; return whether it is the best so far."""
        best = self.scores.val if self.scores is not None else None
        value = scores.val
        is_better = best is None or (value is not None and value > best)
        if is_better:
            self.epoch, self.scores = epoch, scores
        return is_better
