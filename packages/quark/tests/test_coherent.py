"""Coherent tests: scores against independent formulas, and what is refused."""

import math

import numpy as np
import pytest
from fivefold import UserError
from fivefold_quark import AmplitudeEstimate, Chebyshev, Replicas, Single
from fivefold_quark.engine.coherent import Damped, is_too_weak
from fivefold_quark.engine.formula import best_k, distribution, exact_k, success
from fivefold_quark.engine.problem import tabulate
from fivefold_quark.engine.problems.edge import edge3
from fivefold_quark.engine.problems.images import bundled_digits, tiny
from fivefold_quark.engine.problems.warm_ups import xor
from numpy.polynomial.chebyshev import chebval
from scipy.stats import binom

ACCURACIES = np.linspace(0.0, 1.0, 41)


@pytest.mark.parametrize("degree", [1, 3, 9, 15])
@pytest.mark.parametrize("tau", [0.3, 0.9])
def test_a_filter_is_the_scaled_chebyshev_polynomial(degree, tau):
    polynomial = [0] * degree + [1]
    test = Chebyshev(degree, tau)
    scaled = chebval(np.sqrt(ACCURACIES / tau), polynomial) / chebval(
        1 / math.sqrt(tau), polynomial
    )
    assert test.score(ACCURACIES) == pytest.approx(scaled**2, abs=1e-10)
    assert test.score(ACCURACIES[tau >= ACCURACIES]).max() <= test.delta**2 + 1e-12
    assert (np.diff(test.score(ACCURACIES[tau <= ACCURACIES])) >= 0).all()


def test_replicas_are_powers_and_with_fewer_needed_a_binomial_tail():
    assert Replicas(5).score(ACCURACIES) == pytest.approx(ACCURACIES**5)
    tail = binom.sf(2, 5, ACCURACIES)
    assert Replicas(5, least=3).score(ACCURACIES) == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_an_estimate_has_the_law_of_phase_estimation(bits):
    test, size = AmplitudeEstimate(bits, 0.6), 2**bits
    j = np.arange(size)
    for accuracy in (0.0, 0.2, 0.55, 0.8, 1.0):
        phase = 2 * math.asin(math.sqrt(accuracy))  # eigenvalues e^{+-i phase} of the rotation
        law = np.zeros(size)
        for sign in (1, -1):
            for y in range(size):
                turns = np.exp(1j * j * (sign * phase - 2 * math.pi * y / size))
                law[y] += abs(turns.mean()) ** 2 / 2
        good = [y for y in range(size) if math.sin(math.pi * y / size) ** 2 >= 0.6 - 1e-12]
        assert test.score(np.array([accuracy]))[0] == pytest.approx(law[good].sum(), abs=1e-12)


def test_costs_are_those_of_the_specification():
    assert [t.cost for t in (Single(), Replicas(7), Chebyshev(9, 0.9))] == [1, 7, 9]
    assert AmplitudeEstimate(3, 0.9).cost == 15


def test_a_test_of_one_copy_with_a_flip_closed_model_is_too_weak():
    """Mean accuracy 1/2: theta is 45 degrees, and no iteration changes the flag's probability."""
    table = tabulate(tiny(bundled_digits(), (6, 7)))
    score = Single().score(table.accuracies)
    assert score.mean() == pytest.approx(0.5, abs=1e-12)
    assert is_too_weak(score.mean(), score.max())
    assert success(score.mean(), 1) == pytest.approx(0.5, abs=1e-12)
    sharp = Chebyshev(9, 0.8).score(table.accuracies)
    assert not is_too_weak(sharp.mean(), sharp.max())


def test_one_copy_makes_edge3_worse():
    score = Single().score(tabulate(edge3()).accuracies)
    best = score.argmax()
    assert distribution(score, 0)[best] == pytest.approx(0.125)
    assert distribution(score, 1)[best] == pytest.approx(0.0018, abs=1e-4)
    assert is_too_weak(score.mean(), score.max())


def test_golden_probabilities():
    score = Replicas(2).score(tabulate(xor()).accuracies)
    assert distribution(score, 1) == pytest.approx([0.2031] * 3 + [0.3906], abs=1e-4)
    assert distribution(score, 2) == pytest.approx([0.2939] * 3 + [0.1182], abs=1e-4)
    sharp = Replicas(32).score(tabulate(edge3()).accuracies)
    assert distribution(sharp, 2).max() == pytest.approx(0.891, abs=1e-3)


@pytest.mark.parametrize("mean", [0.9, 0.5, 0.3, 0.1, 1e-2, 1e-4])
def test_best_k_is_the_first_maximum_of_the_flags_probability(mean):
    theta = math.asin(math.sqrt(mean))
    flags = [math.sin((2 * k + 1) * theta) ** 2 for k in range(int(math.pi / (4 * theta)) + 1)]
    assert flags[best_k(mean)] == pytest.approx(max(flags))


def test_more_iterations_than_best_turn_too_far():
    score = Replicas(16).score(tabulate(edge3()).accuracies)
    k = best_k(float(score.mean()))
    assert distribution(score, 2 * k).max() < distribution(score, k).max()


def test_scores_that_are_all_equal_leave_the_register_uniform():
    for value in (0.0, 1.0):
        assert distribution(np.full(8, value), 3) == pytest.approx(np.full(8, 0.125))
        assert best_k(value) == 0


def test_a_damped_test_ends_exactly_on_the_good_branch():
    score = Chebyshev(5, 0.9).score(tabulate(edge3()).accuracies)
    k = best_k(float(score.mean())) + 1
    damped = Damped.exact(Chebyshev(5, 0.9), float(score.mean()), k)
    lowered = damped.score(tabulate(edge3()).accuracies)
    assert success(float(lowered.mean()), k) == pytest.approx(1.0, abs=1e-12)
    assert distribution(lowered, k) == pytest.approx(score / score.sum(), abs=1e-12)


@pytest.mark.parametrize("mean", [0.9, 0.5, 0.06, 1e-3, 1e-5])
def test_no_fewer_iterations_could_be_exact(mean):
    k = exact_k(mean)
    assert Damped.exact(Single(), mean, k).factor <= 1.0
    if k:
        with pytest.raises(UserError, match=r"optimization\.schedule\.k"):
            Damped.exact(Single(), mean, k - 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Chebyshev(4, 0.9), r"test\.L.*5"),
        (lambda: Chebyshev(3, 1.0), r"test\.tau"),
        (lambda: Replicas(0), r"test\.m"),
        (lambda: Replicas(2, least=3), r"test\.least"),
        (lambda: AmplitudeEstimate(0, 0.5), r"test\.t"),
        (lambda: AmplitudeEstimate(3, 0.0), r"test\.tau"),
        (lambda: Damped.exact(Single(), 0.01, 1), "cannot be exact"),
    ],
)
def test_what_is_no_test_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
