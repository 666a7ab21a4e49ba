"""The loop around a training method: epochs, exact evaluation, the best checkpoint, states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from fivefold import UserError
from torch import Tensor

from ..config import TrainOptions
from .checkpoint import CheckpointFolder, Saved
from .graph import GraphData
from .metrics import BestEpoch, Scores, score
from .training import EpochReport, GraphTraining

_NO_SCORES = Scores(None, None, None)


@dataclass
class Point:
    """One epoch of the curve."""

    epoch: int
    """Epochs trained so far, from 1."""
    loss: float
    """Training loss of this epoch, before its step."""
    seconds: float
    """Time of the epoch without evaluation."""
    waited: float
    """Of it, the longest wait of a rank."""
    computed: float
    """Of it, the longest computation of a rank."""
    bytes: int
    """Sent between ranks, all together."""
    train: float | None = None
    """Score after the epoch; `None` when it was not evaluated."""
    val: float | None = None
    """The same on the validation vertices."""
    test: float | None = None
    """The same on the test vertices."""
    staleness: list[float] = field(default_factory=list)
    """Mean relative distance of history and fresh rows, a number a layer."""


@dataclass
class Curve:
    """What a run was, epoch by epoch, and its best."""

    points: list[Point] = field(default_factory=list)
    """One an epoch."""
    best_epoch: int = 0
    """The epoch, from 1, with the highest validation score."""
    best: Scores = _NO_SCORES
    """Scores at that epoch."""
    links: dict[str, int] = field(default_factory=dict)
    """Bytes of the last epoch by link and direction."""

    @property
    def last(self) -> Scores:
        """Scores at the last evaluated epoch."""
        for point in reversed(self.points):
            if point.train is not None or point.val is not None or point.test is not None:
                return Scores(point.train, point.val, point.test)
        return _NO_SCORES

    def seconds_per_epoch(self, name: str = "seconds") -> float | None:
        """Return the median over epochs; the first, which warms up, counts only if alone."""
        values = [getattr(point, name) for point in self.points]
        return median(values[1:] or values) if values else None

    def as_progress(self) -> dict[str, object]:
        """Return what a state keeps."""
        return {
            "points": [asdict(point) for point in self.points],
            "best_epoch": self.best_epoch,
            "best": asdict(self.best),
        }

    @classmethod
    def of_progress(cls, progress: dict[str, Any]) -> Curve:
        """Return the curve that `as_progress` kept."""
        points = [Point(**point) for point in progress["points"]]
        return cls(points, progress["best_epoch"], Scores(**progress["best"]))


@dataclass
class Outcome:
    """What training ends with, at rank 0; other ranks have the curve without scores."""

    curve: Curve
    """The curve."""
    weights: dict[str, Tensor] | None
    """Those of the best validation epoch."""


def fit(
    method: GraphTraining,
    data: GraphData,
    options: TrainOptions,
    *,
    keeper: CheckpointFolder | None = None,
    saved: Saved | None = None,
    watch: Callable[[Point], None] = lambda point: None,
) -> Outcome:
    """Train, evaluate exactly every so often, keep the best weights and states to resume from.

    Args:
        method: what trains; on every rank.
        data: the graph, whose labels judge.
        options: epochs, evaluations, states.
        keeper: where checkpoints go; none are kept without.
        saved: a state to go on from.
        watch: told of every epoch.

    Raises:
        UserError: the loss is no number any more.
    """
    curve, best_weights, begin = Curve(), None, 0
    best = BestEpoch()
    if saved is not None:
        curve, best_weights, begin = Curve.of_progress(saved.progress), saved.best, saved.epoch
        best.epoch, best.scores = curve.best_epoch, curve.best
        method.load(saved.weights, saved.state, begin)
    for index in range(begin, options.epochs):
        report = method.epoch(index)
        _require_number(report, index)
        point = _point(report, index)
        curve.points.append(point)
        curve.links = report.links
        is_last = index + 1 == options.epochs
        if is_last or (index + 1) % options.eval_every == 0:
            better = _evaluate(method, data, point, best)
            if better is not None:
                best_weights = better
                curve.best_epoch, curve.best = best.epoch, best.scores or _NO_SCORES
                if keeper is not None:
                    keeper.write_best(better)
        watch(point)
        every = options.checkpoint_every
        if keeper is not None and (is_last or (every and (index + 1) % every == 0)):
            _keep(method, keeper, index + 1, curve, best_weights)
    return Outcome(curve, best_weights)


def _evaluate(
    method: GraphTraining, data: GraphData, point: Point, best: BestEpoch
) -> dict[str, Tensor] | None:
    """Fill a point's scores at rank 0; return the weights if they are the best so far."""
    logits, weights = method.logits(), method.weights()
    if logits is None or weights is None:
        return None
    scores = score(logits, data)
    point.train, point.val, point.test = scores.train, scores.val, scores.test
    return weights if best.offer(point.epoch, scores) else None


def _keep(
    method: GraphTraining,
    keeper: CheckpointFolder,
    epoch: int,
    curve: Curve,
    best: dict[str, Tensor] | None,
) -> None:
    """Write a state: every rank its part, and its name once all have."""
    weights = method.weights()
    keeper.write_state(epoch, method.state())
    if weights is not None:
        keeper.write_shared(epoch, weights, best or weights, curve.as_progress())
    method.exchange(f"state {epoch}")
    if weights is not None:
        keeper.finish(epoch)


def _point(report: EpochReport, index: int) -> Point:
    return Point(
        epoch=index + 1,
        loss=report.loss,
        seconds=report.seconds,
        waited=report.seconds_waited,
        computed=report.seconds_compute,
        bytes=report.bytes_sent,
        staleness=report.staleness,
    )


def _require_number(report: EpochReport, index: int) -> None:
    if not math.isfinite(report.loss):
        if index == 0:  # no step has been taken: the learning rate has no part in it
            raise UserError(
                f"the loss is {report.loss} before the first step",
                remedy="scale features and edge weights to about 1",
            )
        raise UserError(
            f"the loss is {report.loss} in epoch {index + 1}",
            setting="lr",
            remedy="lower it, or set clip_norm=1",
        )
