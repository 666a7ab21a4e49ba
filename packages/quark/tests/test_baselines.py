"""The baselines: the truth by enumeration, draws by their rules, gradients against differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import Ledger, Samples
from fivefold_quark.config import ExhaustiveConfig, ParameterShiftConfig, RandomConfig
from fivefold_quark.engine.baselines.exhaustive import Exhaustive
from fivefold_quark.engine.baselines.logistic import logistic_regression
from fivefold_quark.engine.baselines.parameter_shift import ParameterShift, Relaxed
from fivefold_quark.engine.baselines.random_search import RandomSearch
from fivefold_quark.engine.oracle import Oracle
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge3, edge8
from fivefold_quark.engine.problems.images import bundled_digits, tiny
from fivefold_quark.engine.racing import Verifier

EDGE8 = edge8()
TINY = tiny(bundled_digits(), (6, 7))


@pytest.mark.parametrize("problem", [EDGE8, TINY], ids=["edge8", "tiny67"])
def test_exhaustive_is_brute_force(problem):
    found = Exhaustive(ExhaustiveConfig()).optimize(problem)
    table = tabulate(problem)
    assert found.train_accuracy == pytest.approx(table.accuracies.max(), abs=1e-12)
    assert found.ledger.classical_evals == table.right.size
    assert found.stopped == "exhausted"


def test_exhaustive_refuses_what_it_cannot_list():
    with pytest.raises(UserError, match=r"optimization\.max_bits"):
        Exhaustive(ExhaustiveConfig(max_bits=5)).optimize(EDGE8)


def test_random_without_replacement_never_repeats_and_ends_at_95_percent():
    found = RandomSearch(RandomConfig(racing=False, seed=3)).optimize(EDGE8)
    assert found.stopped == "confidence"
    assert found.ledger.shots_verify == found.ledger.shots_weight == math.ceil(0.95 * 256)


def test_random_with_replacement_draws_until_any_weight_would_have_come():
    found = RandomSearch(RandomConfig(replacement=True, seed=3)).optimize(EDGE8)
    assert found.ledger.shots_weight == math.ceil(math.log(0.05) / math.log1p(-1 / 256))
    assert found.ledger.shots_verify < found.ledger.shots_weight  # repeats are remembered


def test_random_search_needs_half_the_register_on_average():
    def judge(progress):
        if progress.incumbent > 1 - 1e-9:
            raise KeyboardInterrupt

    draws = [
        RandomSearch(RandomConfig(racing=False, confidence=0.999999, seed=seed))
        .optimize(EDGE8, [judge])
        .ledger.shots_weight
        for seed in range(60)
    ]
    assert np.mean(draws) == pytest.approx(128.5, abs=4 * 74 / math.sqrt(60))


def test_first_mistake_ends_a_race():
    found = RandomSearch(RandomConfig(racing_at_first_mistake=True, seed=1)).optimize(EDGE8)
    accuracies = tabulate(EDGE8).accuracies
    wrong = np.rint((1 - accuracies) * 512)
    expected = np.where(wrong > 0, 513 / (wrong + 1), 512).mean()
    assert found.ledger.classical_evals / found.ledger.shots_weight == pytest.approx(
        expected, rel=0.4
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_race_is_never_wrong_about_a_better_weight(seed):
    """Against brute force: whatever it drops is no better, and what it keeps is exact."""
    accuracies = tabulate(EDGE8).accuracies
    oracle = Oracle(EDGE8, seed=seed)
    verifier = Verifier(oracle, seed, races=True, confidence=0.999)
    for code in range(0, 256, 5):
        verdict = verifier.verify(code, 0.85)
        if accuracies[code] > 0.85:
            assert verdict.is_exact
        if verdict.is_exact:
            assert verdict.accuracy == pytest.approx(accuracies[code], abs=1e-12)


@pytest.mark.parametrize("is_uniform", [True, False])
def test_a_lost_race_knows_how_far_its_estimate_may_be_off(is_uniform):
    """Two standard errors hold about 95 of 100 true accuracies."""
    shares = None if is_uniform else np.random.default_rng(1).exponential(size=512)
    train = Samples.of(EDGE8.train.features, EDGE8.train.labels, shares)
    problem = replace(EDGE8, train=train)
    accuracies = tabulate(problem).accuracies
    within = []
    for seed in range(4):
        verifier = Verifier(Oracle(problem), seed, races=True, confidence=0.999)
        for code in range(0, 256, 3):
            verdict = verifier.verify(code, 0.93)
            if not verdict.is_exact:
                assert verdict.error > 0.0
                within.append(abs(verdict.accuracy - accuracies[code]) <= 2.0 * verdict.error)
    assert np.mean(within) >= 0.9


def test_parameter_shift_is_the_derivative():
    relaxed = Relaxed(edge3(), 0, np.random.default_rng(0), Ledger())
    angles = np.array([0.4, 1.9, 2.6])
    step = 1e-6
    for j, derivative in enumerate(relaxed.gradient(angles)):
        shift = np.zeros(3)
        shift[j] = step
        up, down = relaxed.values(np.stack([angles + shift, angles - shift]))
        assert derivative == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_shots_estimate_the_exact_value():
    angles = np.array([[0.4, 1.9, 2.6]])
    exact = Relaxed(edge3(), 0, np.random.default_rng(0), Ledger()).values(angles)[0]
    ledger = Ledger()
    sampled = Relaxed(edge3(), 4000, np.random.default_rng(1), ledger).values(angles)[0]
    assert sampled == pytest.approx(exact, abs=4 * 0.5 / math.sqrt(4000))
    assert ledger.shots_weight == ledger.model_queries == 4000


def test_parameter_shift_learns_the_edges():
    config = ParameterShiftConfig(shots=0, restarts=10, steps=60, seed=0)
    found = ParameterShift(config).optimize(edge3())
    assert found.train_accuracy == 1.0


def test_shots_of_gradient_training_are_counted():
    config = ParameterShiftConfig(shots=8, restarts=1, steps=10, seed=0)
    found = ParameterShift(config).optimize(EDGE8)
    assert found.ledger.shots_weight == found.details["steps"] * 2 * 8 * 8


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    train = TINY.train
    model = LogisticRegression(max_iter=1000).fit(train.features, train.labels)
    found = logistic_regression(TINY)
    assert found.train_accuracy == pytest.approx(model.score(train.features, train.labels))
