"""Which test, how many iterations: the plan of the next shot.

For each test of a ladder and each k up to k* the planner knows, from what it believes of the mean
score, how probably one shot brings a better weight, and what the shot costs. It takes the pair with
the largest expected gain for its cost. It is blind: all it is told are the accuracies of candidates
that were measured and verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..engine.arrays import Codes, Floats
from ..engine.coherent import CoherentTest, Damped
from ..engine.formula import best_k, success
from .belief import GRID, Hopes, Worlds, clipped, hit_probability

Ladder = Callable[[float], Iterable[CoherentTest]]
"""Which tests may be chosen, given the incumbent's accuracy."""
MeanOf = Callable[[CoherentTest], float]
"""The mean score of a test, from elsewhere than the planner's belief."""

_FAR = 2.0
"""Power of an improvement by which it is valued: one great step saves the stages between."""


@dataclass(frozen=True)
class Plan:
    """What the next shot runs."""

    test: CoherentTest
    k: int
    """Iterations."""
    hit: float
    """Expected number of better weights that one shot measures, if one hides anywhere above."""
    flag: float
    """Expected g_k."""
    mean: float
    """Expected mean score, sin^2(theta)."""

    @property
    def queries(self) -> int:
        """Model queries of one shot."""
        return (2 * self.k + 1) * self.test.cost

    @property
    def tau(self) -> float:
        """Accuracy that the test looks for; 0 where it has none."""
        test = self.test.test if isinstance(self.test, Damped) else self.test
        return float(getattr(test, "tau", 0.0))


class Planner:
    """Plans shots from candidates' accuracies alone.

    Args:
        num_codes: Omega.
        ladder: the tests that may be chosen.
        shot_cost: what one measurement costs beside its queries, in queries.
        mean_of: tells the mean score of a test; without it, it is believed and learnt.
        seed: of the worlds that are believed possible.
    """

    def __init__(
        self,
        num_codes: int,
        ladder: Ladder,
        shot_cost: float,
        mean_of: MeanOf | None = None,
        seed: int = 0,
    ) -> None:
        self.num_codes = num_codes
        self._ladder = ladder
        self._shot_cost = shot_cost
        self._mean_of = mean_of
        self._worlds = Worlds(num_codes, np.random.default_rng([seed, 9]))
        self._seen: dict[int, float] = {}

    def saw(self, code: int, accuracy: float, plan: Plan | None = None, error: float = 0.0) -> None:
        """Take a verified candidate.

        Args:
            code: the weight.
            accuracy: exact, or estimated by a race that was lost.
            plan: that of the shot which brought it; nothing for a uniform draw.
            error: the standard error of the accuracy; 0 where it is exact.
        """
        is_new = code not in self._seen
        if plan is not None:
            score, means = plan.test.score(GRID), self._means(plan.test)
            if is_new:
                self._worlds.shot_shows(score, means, plan.k, accuracy, error)
            else:
                (known,) = plan.test.score(np.array([self._seen[code]]))
                self._worlds.shot_repeats(score, means, plan.k, float(known))
        elif is_new:
            self._worlds.draw_shows(accuracy, error)
        self._seen[code] = accuracy

    def estimated(self, accuracy: float, error: float) -> None:
        """Take the accuracy of a uniform draw, estimated from samples; its weight is forgotten."""
        self._worlds.draw_shows(accuracy, error)

    def missed(self, accuracy: float) -> float:
        """Return the probability that all shots so far missed a weight at least so accurate.

        The largest over the accuracies from this one to 1; 0 when none is that accurate.
        """
        above = self._worlds.missed()[accuracy - 1e-9 <= GRID]
        return float(above.max()) if above.size else 0.0

    def plan(self, incumbent: float, max_queries: float = float("inf")) -> Plan | None:
        """Return the plan of the next shot; nothing when nothing better can exist or be afforded.

        Args:
            incumbent: the best accuracy so far.
            max_queries: most model queries that the shot may cost.
        """
        hopes = self._worlds.hopes(incumbent)
        if not hopes.places.size:
            return None
        best, best_value = None, -1.0
        for test in self._ladder(incumbent):
            for plan, value in self._valued(test, hopes, incumbent, max_queries):
                if value > best_value:
                    best, best_value = plan, value
        return best

    def _valued(
        self, test: CoherentTest, hopes: Hopes, incumbent: float, max_queries: float
    ) -> Iterator[tuple[Plan, float]]:
        """Yield the plans that one test allows, each with its expected gain for its cost."""
        means = self._means(test)[hopes.worlds]
        equal = np.full(means.size, 1.0 / means.size)
        mean = middle(means, equal)
        ks = iterations(best_k(mean))
        ks = ks[: int(np.searchsorted((2 * ks + 1) * test.cost, max_queries, side="right"))]
        hits = hit_probability(test.score(hopes.places), means, ks, self.num_codes)
        found = np.einsum("kwp,wp->kp", hits, hopes.weights) / means.size
        gain = (hopes.places - incumbent) ** _FAR
        values = found @ gain / ((2 * ks + 1) * test.cost + self._shot_cost)
        for k, value, hit in zip(ks, values, found.sum(1), strict=True):
            flag = float(success(means, int(k)).mean())
            yield Plan(test, int(k), min(float(hit), 1.0), flag, mean), float(value)

    def belief(self, test: CoherentTest) -> tuple[Floats, Floats]:
        """Return possible mean scores of a test and the belief in each (sums to 1)."""
        return self._means(test), self._worlds.belief

    def _means(self, test: CoherentTest) -> Floats:
        """Return a test's mean score in each world."""
        if self._mean_of is not None:
            return clipped(np.full(self._worlds.belief.shape, self._mean_of(test)))
        seen = test.score(np.array(list(self._seen.values())))
        return self._worlds.means(test.score(GRID), seen)


def middle(means: Floats, belief: Floats) -> float:
    """Return the geometric mean of possible mean scores.

    The belief has several peaks, since g_k is periodic; the ordinary mean would follow the highest
    score, and allow too few iterations ever to tell the peaks apart.
    """
    return float(np.exp(belief @ np.log(means)))


def iterations(top: int) -> Codes:
    """Return the numbers of iterations worth comparing, up to the best one for the mean."""
    steps = np.concatenate([np.arange(4), np.geomspace(4, max(top, 4), 10), [top]]).astype(np.int64)
    return np.unique(steps[steps <= top])
