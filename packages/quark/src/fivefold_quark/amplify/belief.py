"""What the planner believes of the accuracies it has not seen.

It holds many possible worlds: laws by which accuracies may spread over the register. Each predicts
the mean score of any coherent test, hence, by the master formula, how probably a shot shows a
weight of this or that accuracy. Every verified candidate, amplified or drawn, is evidence for some
worlds against others; no shot is spent on measuring the mean score itself.

A law is a Student t of two halves: a width of its own on either side, tails from normal to heavy.
The worlds are weighed by Bayes' rule and, when few carry all the belief, drawn anew near those that
do (Liu and West 2001, the shrunk kernel). No such law is what accuracies are; so each world also
keeps what shots brought beside what it made expect, accuracy by accuracy, and corrects its law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.arrays import Codes, Floats
from ..engine.formula import share_of

GRID: Floats = np.linspace(0.0, 1.0, 101)
"""Accuracies at which a law is held."""
WORLDS = 192
"""Laws that are weighed against each other."""
_CENTRE, _WIDTH, _FREEDOM = (0.5, 0.2), (np.log(0.1), 0.6), (np.log(5.0), 1.2)
"""Before anything was seen: mean and deviation of a law's centre, log width, log freedom."""
_LOPSIDED = 0.4
"""How much the log widths of its halves differ."""
_SHRINK = 0.97
"""How near the believed worlds new ones are drawn: 1 is a copy."""
_FEWEST = 0.35
"""Part of the worlds that must carry belief, lest they are drawn anew."""
_LEAST_ERROR = 0.012
"""Accuracies are clumped, laws are smooth: a candidate speaks for accuracies this near, too."""
_DOUBT = 0.5
"""Candidates that a law's own prediction counts for, at each accuracy."""
_AROUND: Floats = np.exp(-0.5 * ((GRID[:, None] - GRID[None, :]) / 0.03) ** 2)
"""How far what is seen at one accuracy speaks for others."""
_ASKED, _PLACES = 64, 8
"""Worlds and accuracies by which a plan is valued."""


@dataclass(frozen=True)
class Hopes:
    """Better weights that may still be found."""

    places: Floats
    """Accuracies where they may stand, ascending: [place]."""
    worlds: Codes
    """The worlds that are asked, each as often as it is believed: [world]."""
    weights: Floats
    """How many are hoped for: [world, place]. What the law predicts, and one weight more, somewhere
    above: the one looked for."""


class Worlds:
    """Possible laws of a register's accuracies, and the belief in each.

    Args:
        num_codes: Omega, the weights that the register can hold.
        random: draws the worlds.
    """

    def __init__(self, num_codes: int, random: np.random.Generator) -> None:
        self.num_codes = num_codes
        self._random = random
        normal = random.standard_normal((4, WORLDS))
        centre = _CENTRE[0] + _CENTRE[1] * normal[0]
        below = _WIDTH[0] + _WIDTH[1] * normal[1]
        above = below + _LOPSIDED * normal[2]
        freedom = _FREEDOM[0] + _FREEDOM[1] * normal[3]
        self._parameters: Floats = np.stack([centre, below, above, freedom], axis=1)
        self._log_belief: Floats = np.zeros(WORLDS)
        self._log_missed: Floats = np.zeros((WORLDS, GRID.size))
        """Log probability that all shots missed one more weight of each accuracy."""
        self._expected: Floats = np.zeros((WORLDS, GRID.size))
        """Candidates that shots should have brought, at each accuracy."""
        self._brought: Floats = np.zeros((WORLDS, GRID.size))
        """Candidates that they brought, where each world places them."""
        self._family: Floats = _family(self._parameters)
        self.laws: Floats = self._family
        """Share of the weights not seen yet at each accuracy of the grid: [world, accuracy]."""

    @property
    def belief(self) -> Floats:
        """The belief in each world; sums to 1."""
        weights = np.exp(self._log_belief - self._log_belief.max())
        belief: Floats = weights / weights.sum()
        return belief

    def means(self, score: Floats, seen: Floats) -> Floats:
        """Return the mean score of a test in each world.

        Args:
            score: of the test on the grid.
            seen: its scores of the weights that were seen, which are no matter of belief.
        """
        left = 1.0 - seen.size / self.num_codes
        return clipped(left * (self.laws @ score) + float(seen.sum()) / self.num_codes)

    def missed(self) -> Floats:
        """Return the probability that all shots missed one more weight: [accuracy]."""
        missed: Floats = self.belief @ np.exp(self._log_missed)
        return missed

    # --------------------------------------------------------------------- what shots bring

    def draw_shows(self, accuracy: float, error: float) -> None:
        """Take a uniform draw's accuracy, known up to a standard error."""
        self._take(self.laws, _near(accuracy, error))

    def shot_shows(
        self, score: Floats, means: Floats, k: int, accuracy: float, error: float
    ) -> None:
        """Take the candidate that one shot brought, a weight not seen before.

        Args:
            score: of the shot's test on the grid.
            means: its mean score in each world.
            k: iterations.
            accuracy: of the candidate.
            error: the standard error of that.
        """
        self._miss(score, means, k)
        self._take(self._shown(score, means, k), _near(accuracy, error))

    def shot_repeats(self, score: Floats, means: Floats, k: int, known: float) -> None:
        """Take a shot that showed a weight of a known score again."""
        self._miss(score, means, k)
        self._expected = self._expected + self._shown(score, means, k)
        self._weigh(share_of(np.array(known), means, k))

    def _miss(self, score: Floats, means: Floats, k: int) -> None:
        """Count a shot against every weight that it did not show."""
        (hits,) = hit_probability(score, means, np.array([k]), self.num_codes)
        self._log_missed = self._log_missed + np.log1p(-np.minimum(hits, 1.0 - 1e-9))

    def _shown(self, score: Floats, means: Floats, k: int) -> Floats:
        """Return how probably a shot shows an unseen weight of each accuracy."""
        shown: Floats = self.laws * share_of(score[None, :], means[:, None], k)
        return shown

    def _take(self, shown: Floats, near: Floats) -> None:
        """Take a new candidate: which worlds expected it, and where they place it."""
        there = shown * near
        likelihood = there.sum(1)
        self._expected = self._expected + shown
        self._brought = self._brought + there / np.maximum(likelihood, 1e-300)[:, None]
        self._weigh(likelihood)

    def _weigh(self, likelihood: Floats) -> None:
        self._log_belief = self._log_belief + np.log(np.maximum(likelihood, 1e-12))
        self._log_belief -= self._log_belief.max()
        belief = self.belief
        if 1.0 / float(belief @ belief) < _FEWEST * WORLDS:
            self._draw_anew(belief)
        self._correct()

    def _correct(self) -> None:
        """Correct each world's law by what shots brought against what it made expect.

        A Poisson rate with a gamma prior about the law's own, at each accuracy and around it.
        """
        told = (self._brought @ _AROUND + _DOUBT) / (self._expected @ _AROUND + _DOUBT)
        laws = self._family * told
        self.laws = laws / laws.sum(1, keepdims=True)

    def _draw_anew(self, belief: Floats) -> None:
        """Draw worlds by belief, moved a little; their mean and variance stay as they are."""
        edges = np.cumsum(belief)
        places = (np.arange(WORLDS) + self._random.random()) / WORLDS * edges[-1]
        chosen = np.minimum(np.searchsorted(edges, places), WORLDS - 1)
        mean = belief @ self._parameters
        apart = self._parameters - mean
        variance = apart.T @ (belief[:, None] * apart)
        root = np.linalg.cholesky(variance + 1e-8 * np.eye(len(mean)))
        noise = self._random.standard_normal(self._parameters.shape) @ root.T
        self._parameters = mean + _SHRINK * apart[chosen] + np.sqrt(1.0 - _SHRINK**2) * noise
        self._family = _family(self._parameters)
        self._log_missed = self._log_missed[chosen]
        self._expected, self._brought = self._expected[chosen], self._brought[chosen]
        self._log_belief = np.zeros(WORLDS)

    # ------------------------------------------------------------------ what may be there

    def hopes(self, accuracy: float) -> Hopes:
        """Return where weights better than this may still be."""
        above = np.flatnonzero(accuracy + 1e-9 < GRID)
        edges = np.cumsum(self.belief)
        places = (np.arange(_ASKED) + 0.5) / _ASKED * edges[-1]
        worlds = np.minimum(np.searchsorted(edges, places), WORLDS - 1)
        if not above.size:
            return Hopes(GRID[:0], worlds, np.zeros((worlds.size, 0)))
        hoped = self.num_codes * self.laws[np.ix_(worlds, above)] + 1.0 / above.size
        hoped *= np.exp(self._log_missed[np.ix_(worlds, above)])  # unseen after so many shots
        groups = np.array_split(np.arange(above.size), min(_PLACES, above.size))
        centres = np.array([GRID[above[group]].mean() for group in groups])
        weights = np.stack([hoped[:, group].sum(1) for group in groups], axis=1)
        return Hopes(centres, worlds, weights)


def _family(parameters: Floats) -> Floats:
    """Return the laws of these parameters, before any correction: [world, accuracy]."""
    centre, below, above, freedom = (column[:, None] for column in parameters.T)
    freedom = np.exp(np.clip(freedom, np.log(1.5), np.log(200.0)))
    width = np.exp(np.clip(np.where(centre > GRID, below, above), np.log(0.005), 1.0))
    distance = ((GRID - centre) / width) ** 2
    density = (1.0 + distance / freedom) ** (-(freedom + 1.0) / 2.0)
    laws: Floats = density / density.sum(1, keepdims=True)
    return laws


def _near(accuracy: float, error: float) -> Floats:
    """Return how well each accuracy of the grid explains one that was estimated."""
    wide = np.hypot(error, _LEAST_ERROR)
    weights = np.exp(-0.5 * ((GRID - accuracy) / wide) ** 2)
    near: Floats = weights / weights.sum()
    return near


def clipped(means: Floats) -> Floats:
    """Keep mean scores where amplification is defined."""
    return np.clip(means, 1e-12, 1.0 - 1e-9)


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
