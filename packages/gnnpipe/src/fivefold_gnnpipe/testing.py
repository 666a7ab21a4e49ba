"""The exam of graph training methods, and tiny graphs to train on.

A third party's whole test: `class TestMine(GraphTrainingSuite): overrides = ["training=mine"]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from fivefold import Run
from fivefold.testing import compose
from torch import Tensor

from ._words import Exactness
from .config import ModelConfig, TrainOptions
from .engine.edges import graph_edges
from .engine.graph import GraphData, clean_edges
from .engine.loss import node_loss, num_terms
from .engine.models import make_plan
from .engine.optimizer import make_optimizer
from .engine.plan import LayerPlan, Masks
from .engine.training import GraphTraining, Session

__all__ = ["GraphTrainingSuite", "plain_run", "tiny_graph"]

_EXACT = 1e-11
"""Largest difference in float64 between two orders of summation."""


def tiny_graph(
    num_nodes: int = 40, *, seed: int = 0, multilabel: bool = False, num_features: int = 7
) -> GraphData:
    """Return a small random graph with an isolated vertex and unlabelled ones.

    Args:
        num_nodes: vertices.
        seed: same seed, same graph.
        multilabel: whether a vertex may have several labels.
        num_features: feature columns.
    """
    rng = np.random.default_rng(seed)
    ends = torch.from_numpy(rng.integers(num_nodes - 1, size=(2, 3 * num_nodes)))  # last: alone
    edges, _ = clean_edges(ends, num_nodes, undirected=True)
    classes = 3
    y = torch.from_numpy(rng.integers(-1, classes, size=num_nodes))
    if multilabel:
        y = torch.from_numpy(rng.integers(2, size=(num_nodes, classes))).float()
    place = torch.from_numpy(rng.integers(3, size=num_nodes))
    place[:3] = torch.arange(3)
    return GraphData(
        x=torch.from_numpy(rng.standard_normal((num_nodes, num_features))).float(),
        edge_index=edges,
        y=y,
        train_mask=place == 0,
        val_mask=place == 1,
        test_mask=place == 2,
        num_classes=classes,
        name="tiny",
    ).checked()


def plain_run(
    plan: LayerPlan, data: GraphData, options: TrainOptions, dtype: torch.dtype
) -> tuple[list[float], dict[str, Tensor]]:
    """Train the whole graph at once in a dozen lines: what methods are compared with.

    Returns:
        The loss of every epoch, and the weights at the end.
    """
    plan = plan.to(dtype)
    edges = graph_edges(data, plan.norm, plan.loops, dtype)
    optimizer = make_optimizer(options, plan.parameters())
    losses = []
    for epoch in range(options.epochs):
        optimizer.zero_grad()
        logits = plan.train()(data.x.to(dtype), edges, Masks(plan.dropout, options.seed, epoch))
        loss = node_loss(logits, data.y, data.train_mask, num_terms(data))
        torch.autograd.backward(loss)
        if options.clip_norm:
            torch.nn.utils.clip_grad_norm_(plan.parameters(), options.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, plan.state_dict()


class GraphTrainingSuite:
    """Composes `fivefold graph` as the command line does, and trains tiny graphs with it.

    Tests of equality with the full graph run for methods that provide `exact-gradient` with the
    settings given; a method whose neighbours may be stale sets `is_exact = False`.
    """

    overrides: ClassVar[Sequence[str]] = ()
    """What the command line would be given."""
    is_exact: ClassVar[bool] = True
    """Whether gradients are the full graph's with these settings."""
    models: ClassVar[Sequence[str]] = ("gcn", "sage", "gcnii", "resgcn", "gat")
    """Networks that are trained."""
    epochs: ClassVar[int] = 3
    """Epochs of each comparison."""

    # ------------------------------------------------------------------------------------- tools

    def compose(self, *more: str) -> Run:
        """Return the run of these overrides and some more."""
        return _composed(("data=karate", *self.overrides, *more))

    def plan(self, model: str, data: GraphData, seed: int = 1) -> LayerPlan:
        """Return a small network of four layers, with dropout, in float64."""
        config = ModelConfig(name=model, layers=4, hidden=8, dropout=0.3, heads=2)
        return make_plan(
            config, data.num_features, data.num_classes, seed=seed, dtype=torch.float64
        )

    def options(self, **changes: object) -> TrainOptions:
        """Return the options of a short training."""
        values: dict[str, object] = {"epochs": self.epochs, "lr": 0.01, "seed": 5}
        return TrainOptions(**{**values, **changes})  # type: ignore[arg-type]

    @contextmanager
    def method(
        self, plan: LayerPlan, data: GraphData, options: TrainOptions
    ) -> Iterator[GraphTraining]:
        """Build the composed method and close it afterwards."""
        session = Session(options=options, dtype=torch.float64)
        made: GraphTraining = self.compose().build("training", plan, data, session)
        try:
            yield made
        finally:
            made.close()

    def trained(
        self, model: str, data: GraphData, options: TrainOptions
    ) -> tuple[list[float], dict[str, Tensor], Tensor]:
        """Return losses, final weights and exact logits of a training with the method."""
        with self.method(self.plan(model, data), data, options) as method:
            losses = [method.epoch(index).loss for index in range(options.epochs)]
            weights, logits = method.weights(), method.logits()
        assert weights is not None
        assert logits is not None
        return losses, weights, logits

    # ------------------------------------------------------------------------------------- exam

    def test_method_says_what_its_gradients_are(self) -> None:
        """Its description provides one of the two words."""
        provided = self.compose().method("training").provides
        assert provided & set(Exactness)

    def test_training_equals_the_full_graph(self) -> None:
        """Losses and weights after some epochs, with dropout; exact methods only."""
        if not self.is_exact:
            return
        data, options = tiny_graph(), self.options()
        for model in self.models:
            losses, weights, _ = self.trained(model, data, options)
            expected, plain = plain_run(self.plan(model, data), data, options, torch.float64)
            assert _furthest(losses, expected) < _EXACT, model
            assert _difference(weights, plain) < _EXACT, model

    def test_clipping_takes_the_norm_over_all_weights(self) -> None:
        """A norm that bites gives the full graph's weights too; exact methods only."""
        if not self.is_exact:
            return
        data, options = tiny_graph(seed=3), self.options(clip_norm=0.01, optimizer="sgd")
        _, weights, _ = self.trained("gcnii", data, options)
        _, plain = plain_run(self.plan("gcnii", data), data, options, torch.float64)
        assert _difference(weights, plain) < 1e-8  # torch clips with an epsilon of its own

    def test_several_labels_a_vertex_train_too(self) -> None:
        """With binary cross entropy over all entries of training vertices."""
        data, options = tiny_graph(multilabel=True), self.options()
        losses, _, logits = self.trained("sage", data, options)
        assert losses[-1] < losses[0]
        assert logits.shape == data.y.shape
        if self.is_exact:
            expected, _ = plain_run(self.plan("sage", data), data, options, torch.float64)
            assert _furthest(losses, expected) < _EXACT

    def test_evaluation_is_exact(self) -> None:
        """Logits are those of the whole graph at once with the weights it has, undropped."""
        data = tiny_graph(seed=1)
        for model in self.models:
            _, weights, logits = self.trained(model, data, self.options())
            plan = self.plan(model, data)
            plan.load_state_dict(weights)
            edges = graph_edges(data, plan.norm, plan.loops, torch.float64)
            with torch.no_grad():
                expected = plan.eval()(data.x.double(), edges)
            assert torch.allclose(logits, expected, atol=_EXACT, rtol=0), model

    def test_evaluation_changes_nothing(self) -> None:
        """A training that is evaluated after every epoch is the same."""
        data, options = tiny_graph(seed=2), self.options()
        losses, weights, _ = self.trained("gcnii", data, options)
        with self.method(self.plan("gcnii", data), data, options) as method:
            watched = []
            for index in range(options.epochs):
                watched.append(method.epoch(index).loss)
                method.logits()
            assert watched == losses
            assert _difference(method.weights() or {}, weights) == 0.0

    def test_training_resumes_to_the_same_numbers(self) -> None:
        """From weights and state after any epoch, in a method built anew."""
        data, options = tiny_graph(), self.options(epochs=5)
        losses, weights, _ = self.trained("resgcn", data, options)
        for stop in (1, 3):
            with self.method(self.plan("resgcn", data), data, options) as first:
                for index in range(stop):
                    first.epoch(index)
                kept, state, identity = first.weights(), first.state(), first.identity()
            with self.method(self.plan("resgcn", data, seed=9), data, options) as second:
                assert second.identity() == identity
                second.load(kept or {}, state, stop)
                rest = [second.epoch(index).loss for index in range(stop, options.epochs)]
                assert rest == losses[stop:]
                assert _difference(second.weights() or {}, weights) == 0.0

    def test_bytes_sent_are_those_of_the_formula(self) -> None:
        """As integers."""
        data, options = tiny_graph(), self.options()
        for model in self.models:
            with self.method(self.plan(model, data), data, options) as method:
                report = method.epoch(0)
                assert report.bytes_sent == method.facts()["bytes_formula"], model
                assert sum(report.links.values()) == report.bytes_sent

    def test_same_seed_same_numbers_and_other_seed_others(self) -> None:
        """Dropout and orders follow the seed alone."""
        data = tiny_graph()
        first = self.trained("gcn", data, self.options())[0]
        assert self.trained("gcn", data, self.options())[0] == first
        assert self.trained("gcn", data, self.options(seed=6))[0] != first


@cache
def _composed(overrides: tuple[str, ...]) -> Run:
    return compose("graph", overrides)


def _furthest(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def _difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name].cpu()).abs().max()) for name in first)
