"""What the planner believes of the accuracies it has not seen.

It knows a few weights that it drew and verified. From them it predicts how accuracies spread over
the whole register (a Student t law: few draws, heavy tails), hence the mean score of any coherent
test before that test was ever run; the candidates that the test then brings correct the prediction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine.arrays import Codes, Floats
from ..engine.formula import share_of

Score = Callable[[Floats], Floats]

GRID: Floats = np.linspace(0.0, 1.0, 101)
"""Accuracies at which the spread is held."""
_PRIOR_SD, _PRIOR_COUNT = 0.1, 2.0
"""Accuracies of a weight register spread by about a tenth; the guess counts as two draws."""
_RATIOS: Floats = np.linspace(-7.0, 3.0, 41)
"""Logarithm of the true mean score over the predicted one."""
_BELOW, _ABOVE, _DRIFT = 2.0, 0.8, 0.35
"""Standard deviations of that logarithm: heavy tails predict too much rather than too little; and
what is added when the test changes."""
_PRIOR: Floats = -0.5 * (_RATIOS / np.where(_RATIOS < 0.0, _BELOW, _ABOVE)) ** 2
_BODY = 0.85
"""Share of the register, from below, whose accuracies a few draws tell well."""
_TRUST = 0.5
"""Part of a candidate's evidence that is believed: a smooth spread is not what accuracies are."""


class Spread:
    """How accuracies spread over the register, as far as a few draws tell.

    Args:
        num_codes: Omega, the weights that the register can hold.
    """

    def __init__(self, num_codes: int) -> None:
        self.num_codes = num_codes
        self._values: list[float] = []
        self._weights: list[float] = []
        self.density: Floats = np.full(GRID.size, 1.0 / GRID.size)
        """Share of the register at each accuracy of the grid; sums to 1."""

    def add(self, accuracy: float, weight: float = 1.0) -> None:
        """Take a drawn weight's accuracy.

        Args:
            accuracy: of the weight, at least an unbiased estimate.
            weight: 1 for a uniform draw; one that was amplified counts by how much less likely a
                uniform draw would have been.
        """
        self._values.append(accuracy)
        self._weights.append(min(weight, 1.0))
        self._fit()

    def _fit(self) -> None:
        values, weights = np.array(self._values), np.array(self._weights)
        count = max(float(weights.sum()), 1.0)
        mean = float((weights * values).sum() / weights.sum())
        squares = float((weights * (values - mean) ** 2).sum())
        freedom = max(count - 1.0, 0.0) + _PRIOR_COUNT
        variance = (squares + _PRIOR_COUNT * _PRIOR_SD**2) / freedom
        distance = (GRID - mean) ** 2 / (variance * (1.0 + 1.0 / count))
        density = (1.0 + distance / freedom) ** (-(freedom + 1.0) / 2.0)
        self.density = density / density.sum()

    def mean_score(self, score: Score) -> float:
        """Predict the mean of a test's score over the register."""
        return float(self.density @ score(GRID))

    def body_score(self, score: Score) -> float:
        """Return what the bulk of the register alone adds to a test's mean score.

        A filter's ripple there is small, and known well: only the tail above can be misjudged.
        """
        is_body = np.cumsum(self.density) <= _BODY
        return float(self.density[is_body] @ score(GRID[is_body]))

    def above(self, accuracy: float) -> tuple[Floats, Floats]:
        """Return accuracies above a value, and how many weights are hoped to stand at each.

        What the spread predicts, and one weight more, somewhere above: the one looked for.
        """
        is_above = accuracy + 1e-9 < GRID
        places = GRID[is_above]
        if not places.size:
            return places, places
        return places, self.num_codes * self.density[is_above] + 1.0 / places.size


class MeanScore:
    """The mean score of the test in use: predicted, then corrected by what the test brings.

    How probably a shot shows a weight of this score depends on the mean score, by the master
    formula. So every verified candidate is evidence about theta, without one measurement more.
    """

    def __init__(self) -> None:
        self._log_belief: Floats = _PRIOR.copy()

    def learn(self, spread: Spread, test: Score, least: float, accuracy: float, k: int) -> None:
        """Update on the candidate that one shot measured.

        A mean score other than predicted also means fewer or more weights of a high score: the
        spread with its good part rescaled, by which the likelihood is made to sum to 1.

        Args:
            spread: how accuracies are believed to spread.
            test: the score of the test in use.
            least: a bound of its mean score from below, from weights that were seen.
            accuracy: of the candidate.
            k: iterations of the shot.
        """
        grid = test(GRID)
        expected = min(max(float(spread.density @ grid), 1e-12), 1.0 - 1e-9)
        means = self._means(expected, least)[:, None]
        up, down = means / expected, (1.0 - means) / (1.0 - expected)

        def likelihood(score: Floats) -> Floats:
            """Return it for weights of these scores, up to a factor a mean: [mean, weight]."""
            return (score * up + (1.0 - score) * down) * share_of(score, means, k)

        total = likelihood(grid) @ spread.density
        of_it = likelihood(test(np.array([accuracy])))[:, 0]
        told = np.log(np.maximum(of_it, 1e-12)) - np.log(np.maximum(total, 1e-12))
        self._log_belief += _TRUST * told
        self._log_belief -= self._log_belief.max()

    def drift(self) -> None:
        """Another test comes: what was learnt of the prediction's error holds roughly."""
        belief = np.exp(self._log_belief)
        steps = _RATIOS[:, None] - _RATIOS[None, :]
        spread = np.exp(-0.5 * (steps / _DRIFT) ** 2)
        blurred = (spread / spread.sum(0)) @ belief
        prior = np.exp(_PRIOR)
        self._log_belief = np.log(0.95 * blurred / blurred.sum() + 0.05 * prior / prior.sum())

    def belief(self, predicted: float, least: float) -> tuple[Floats, Floats]:
        """Return possible mean scores of a test, and the belief in each (sums to 1)."""
        belief = np.exp(self._log_belief - self._log_belief.max())
        return self._means(predicted, least), belief / belief.sum()

    @staticmethod
    def _means(predicted: float, least: float) -> Floats:
        return np.clip(predicted * np.exp(_RATIOS), max(least, 1e-12), 1.0 - 1e-9)


def hit_probability(score: Floats, means: Floats, ks: Codes, num_codes: int) -> Floats:
    """Return the probability that one shot measures a certain weight: [k, mean score, weight].

    A weight that was not yet seen adds its own score to the mean that the others have.

    Args:
        score: of the weights.
        means: possible mean scores.
        ks: iterations.
        num_codes: Omega.
    """
    totals = np.minimum(means[:, None] + score[None, :] / num_codes, 1.0 - 1e-9)
    theta = np.arcsin(np.sqrt(totals))
    flag = np.sin((2 * ks[:, None, None] + 1) * theta) ** 2
    up, down = score / totals, (1.0 - score) / (1.0 - totals)
    chances: Floats = (flag * (up - down) + down) / num_codes
    return chances
