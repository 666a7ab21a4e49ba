"""The planner: what it believes, what it chooses, and that it is blind."""

from __future__ import annotations

import numpy as np
import pytest
from fivefold_quark import Chebyshev, Oracle, Replicas
from fivefold_quark.amplify.belief import GRID, MeanScore, Spread
from fivefold_quark.amplify.ladder import ladder
from fivefold_quark.amplify.optimizer import QuarkOptimizer
from fivefold_quark.amplify.planner import Planner, iterations, middle
from fivefold_quark.config import BudgetConfig, CoherentTestConfig, QuarkConfig
from fivefold_quark.engine.engines.analytic import Analytic
from fivefold_quark.engine.formula import best_k, distribution, success
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge8
from fivefold_quark.engine.problems.images import bundled_digits, tiny


def told(accuracies, ladder_config=None):
    """Return a planner that saw uniform draws of these accuracies."""
    made = Planner(256, ladder(ladder_config or CoherentTestConfig()), 400.0)
    for code, accuracy in enumerate(accuracies):
        made.saw(code, accuracy)
    return made


def test_spread_of_many_draws_predicts_the_mean_score_of_a_test_never_run():
    problem = edge8()
    accuracies = tabulate(problem).accuracies
    spread = Spread(256)
    for accuracy in np.random.default_rng(0).choice(accuracies, 200):
        spread.add(float(accuracy))
    for test in (Chebyshev(3, 0.9), Chebyshev(9, 0.8), Replicas(8)):
        truth = float(test.score(accuracies).mean())
        assert spread.mean_score(test.score) == pytest.approx(truth, rel=0.8)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_candidates_alone_teach_the_mean_score(k):
    """From few draws the prediction is far off; what shots show brings it nearer the truth."""
    accuracies = tabulate(edge8()).accuracies
    test = Chebyshev(9, 0.9)
    score = test.score(accuracies)
    truth = float(score.mean())
    before, after = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        spread, learner = Spread(256), MeanScore()
        for accuracy in random.choice(accuracies, 8):
            spread.add(float(accuracy) - 0.12)  # far too low: the test's mean is underrated
        predicted = spread.mean_score(test.score)
        for code in random.choice(256, size=40, p=distribution(score, k)):
            learner.learn(spread, test.score, 1e-9, float(accuracies[code]), k)
        means, belief = learner.belief(predicted, 1e-9)
        before.append(abs(np.log(predicted / truth)))
        after.append(abs(np.log(middle(means, belief) / truth)))
    assert np.median(after) < np.median(before)


@pytest.mark.parametrize("seed", range(6))
def test_planner_never_iterates_past_k_star(seed):
    accuracies = np.random.default_rng(seed).uniform(0.3, 0.9, 12)
    made = told(accuracies)
    plan = made.plan(float(accuracies.max()))
    means, belief = made.belief(plan.test)
    assert 0 <= plan.k <= best_k(middle(means, belief))


def test_over_rotation_is_seen_and_avoided():
    assert success(0.06, 2 * best_k(0.06)) < success(0.06, best_k(0.06))
    assert max(iterations(best_k(0.06))) == best_k(0.06)


def test_planner_has_nothing_to_plan_when_nothing_can_be_better():
    assert told([0.5, 1.0]).plan(1.0) is None


def test_planner_plans_nothing_that_it_cannot_afford():
    made = told([0.5, 0.6, 0.7])
    assert made.plan(0.7, max_queries=2.0) is None
    assert made.plan(0.7, max_queries=40.0).queries <= 40


def test_missed_falls_with_shots_that_would_have_hit():
    made = told([0.5, 0.55, 0.6, 0.62, 0.58, 0.57, 0.61, 0.6])
    before = made.missed(0.95)
    for code in range(100, 112):
        made.saw(code, 0.6, made.plan(0.62))
    assert before == 1.0
    assert made.missed(0.95) < 0.5
    assert made.missed(1.1) == 0.0


def test_grid_holds_the_corners():
    assert GRID[0] == 0.0
    assert GRID[-1] == 1.0


# ------------------------------------------------------------------------------ blindness


class Guarded:
    """An engine whose distributions can be read while the oracle asks, and at no other time."""

    name = "guarded"

    def __init__(self, problem):
        self._engine = Analytic(problem)
        self.asked = 0

    def sample(self, test, k, shots, random):
        self.asked += 1
        return self._engine.sample(test, k, shots, random)

    def __getattr__(self, name):
        error = AssertionError(f"{name} of the engine was asked for: the planner is not blind")

        def refuse(*_):
            raise error

        if name not in ("run", "sample_flag", "mean_score", "footprint"):  # the protocol's
            raise error
        return refuse


class OnlySamples:
    """A problem that answers for single weights on given samples and for nothing else."""

    def __init__(self, problem):
        self._problem = problem
        self.name, self.register = problem.name, problem.register
        self.probabilities = problem.probabilities
        self.asked = 0

    def evaluate_batch(self, weights, indices):
        assert len(weights) == 1, "more than one weight at a time: a table is being made"
        self.asked += len(indices)
        return self._problem.evaluate_batch(weights, indices)


PROBLEMS = {
    "edge8": edge8,
    "tiny67": lambda: tiny(bundled_digits(), (6, 7)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_planner_sees_a_counting_oracle_and_nothing_else(name, monkeypatch):
    whole = PROBLEMS[name]()
    problem, engine = OnlySamples(whole), Guarded(whole)

    def forbidden(self, *args):
        raise AssertionError("the exact mean was asked for")

    monkeypatch.setattr(Oracle, "exact_mean", forbidden)
    found = QuarkOptimizer(QuarkConfig(seed=1), engine=lambda _: engine).optimize(problem)
    assert engine.asked == found.ledger.shots_weight
    assert problem.asked == found.ledger.classical_evals
    assert found.train_accuracy >= tabulate(whole).accuracies.max() - 0.05


def test_reading_the_table_outside_the_oracle_is_noticed():
    engine = Guarded(edge8())
    for secret in ("table", "distribution"):
        with pytest.raises(AssertionError, match="not blind"):
            getattr(engine, secret)
    for question in (engine.run, engine.mean_score):
        with pytest.raises(AssertionError, match="not blind"):
            question(Chebyshev(3, 0.9))
    with pytest.raises(AssertionError, match="a table is being made"):
        OnlySamples(edge8()).evaluate_batch(np.zeros((2, 8), np.uint8), np.arange(3))


def test_budget_of_queries_is_never_exceeded():
    problem = edge8()
    engine = Analytic(problem)
    for most in (10, 60, 333):
        config = QuarkConfig(seed=3, budget=BudgetConfig(4096, most, 60.0))
        found = QuarkOptimizer(config, engine=lambda _: engine).optimize(problem)
        assert found.ledger.model_queries <= most
