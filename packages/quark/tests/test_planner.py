"""The planner: what it believes, what it chooses, and that it is blind."""

from __future__ import annotations

import numpy as np
import pytest
from fivefold_quark import Chebyshev, Oracle, Replicas
from fivefold_quark.amplify.belief import GRID, Worlds
from fivefold_quark.amplify.ladder import ladder
from fivefold_quark.amplify.optimizer import QuarkOptimizer
from fivefold_quark.amplify.planner import Planner, iterations, middle
from fivefold_quark.config import BudgetConfig, CoherentTestConfig, QuarkConfig
from fivefold_quark.engine.engines.analytic import Analytic
from fivefold_quark.engine.formula import best_k, distribution, success
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge8
from fivefold_quark.engine.problems.images import bundled_digits, tiny

NOTHING = np.zeros(0)


def told(accuracies, ladder_config=None):
    """Return a planner that saw uniform draws of these accuracies."""
    made = Planner(256, ladder(ladder_config or CoherentTestConfig()), 400.0)
    for code, accuracy in enumerate(accuracies):
        made.saw(code, accuracy)
    return made


def test_worlds_of_many_draws_predict_the_mean_score_of_a_test_never_run():
    accuracies = tabulate(edge8()).accuracies
    worlds = Worlds(256, np.random.default_rng(0))
    for accuracy in np.random.default_rng(0).choice(accuracies, 200):
        worlds.draw_shows(float(accuracy), 0.0)
    for test in (Chebyshev(3, 0.9), Chebyshev(9, 0.8), Replicas(8)):
        truth = float(test.score(accuracies).mean())
        means = worlds.means(test.score(GRID), NOTHING)
        assert middle(means, worlds.belief) == pytest.approx(truth, rel=0.8)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_candidates_alone_teach_the_mean_score(k):
    """From few draws the prediction is far off; what shots show brings it nearer the truth."""
    accuracies = tabulate(edge8()).accuracies
    test = Chebyshev(9, 0.9)
    score, grid = test.score(accuracies), test.score(GRID)
    truth = float(score.mean())
    before, after = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        worlds = Worlds(256, random)
        for accuracy in random.choice(accuracies, 8):
            worlds.draw_shows(float(accuracy) - 0.12, 0.0)  # far too low: the mean is underrated
        believed = middle(worlds.means(grid, NOTHING), worlds.belief)
        before.append(abs(np.log(believed / truth)))
        for code in random.choice(256, size=40, p=distribution(score, k)):
            means = worlds.means(grid, NOTHING)
            worlds.shot_shows(grid, means, k, float(accuracies[code]), 0.0)
        after.append(abs(np.log(middle(worlds.means(grid, NOTHING), worlds.belief) / truth)))
    assert np.median(after) < 0.5 * np.median(before)


def test_one_shot_weighs_worlds_by_bayes_rule():
    """Against the sum over a register with as many weights at each accuracy as a law says."""
    worlds = Worlds(10**6, np.random.default_rng(4))
    laws, test, k = worlds.laws.copy(), Chebyshev(3, 0.5), 1
    score = test.score(GRID)
    means = worlds.means(score, NOTHING)
    worlds.shot_shows(score, means, k, 0.6, 0.0)
    expected = []
    for law in laws:
        mean = sum(law * score)
        g = np.sin(3 * np.arcsin(np.sqrt(mean))) ** 2
        shown = law * (g * score / mean + (1 - g) * (1 - score) / (1 - mean))
        blur = np.exp(-0.5 * ((GRID - 0.6) / 0.012) ** 2)
        expected.append(sum(shown * blur))
    assert worlds.belief == pytest.approx(np.array(expected) / sum(expected), abs=1e-9)


def test_a_weight_shown_again_speaks_for_worlds_in_which_few_are_as_good():
    worlds = Worlds(1024, np.random.default_rng(1))
    for accuracy in np.random.default_rng(2).normal(0.5, 0.05, 8):
        worlds.draw_shows(float(accuracy), 0.0)
    test = Chebyshev(9, 0.7)
    grid, seen = test.score(GRID), test.score(np.array([0.9]))
    before = middle(worlds.means(grid, seen), worlds.belief)
    for _ in range(6):
        worlds.shot_repeats(grid, worlds.means(grid, seen), 4, float(seen[0]))
    assert middle(worlds.means(grid, seen), worlds.belief) < before


def test_hopes_where_nothing_came_although_it_was_expected_are_given_up():
    worlds = Worlds(2**18, np.random.default_rng(3))
    for accuracy in np.random.default_rng(5).normal(0.7, 0.05, 8):
        worlds.draw_shows(float(accuracy), 0.0)
    test = Chebyshev(11, 0.8)
    grid = test.score(GRID)
    before = worlds.hopes(0.92).weights.sum(1).mean()
    for _ in range(30):
        worlds.shot_shows(grid, worlds.means(grid, NOTHING), 8, 0.8, 0.01)
    assert worlds.hopes(0.92).weights.sum(1).mean() < 0.3 * before


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
    assert before == pytest.approx(1.0)
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
    for most in (10.0, 60.0, 333.0):
        config = QuarkConfig(seed=3, budget=BudgetConfig(4096, most, 60.0))
        found = QuarkOptimizer(config, engine=lambda _: engine).optimize(problem)
        assert found.ledger.model_queries <= most
