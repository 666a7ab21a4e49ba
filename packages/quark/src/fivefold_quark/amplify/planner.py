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
from ..engine.formula import best_k, share_of, success
from .belief import GRID, MeanScore, Spread, hit_probability

Ladder = Callable[[float], Iterable[CoherentTest]]
"""Which tests may be chosen, given the incumbent's accuracy."""
MeanOf = Callable[[CoherentTest], float]
"""The mean score of a test, from elsewhere than the planner's belief."""


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
    """

    def __init__(
        self, num_codes: int, ladder: Ladder, shot_cost: float, mean_of: MeanOf | None = None
    ) -> None:
        self.num_codes = num_codes
        self._ladder = ladder
        self._shot_cost = shot_cost
        self._mean_of = mean_of
        self._spread = Spread(num_codes)
        self._mean_score = MeanScore()
        self._seen: dict[int, float] = {}
        self._log_missed: Floats = np.zeros((1, GRID.size))
        """Log probability that all shots missed a weight, by mean score and its accuracy."""
        self._missed: Floats = np.ones(GRID.size)
        self._test: CoherentTest | None = None

    def saw(self, code: int, accuracy: float, plan: Plan | None = None) -> None:
        """Take a verified candidate.

        Args:
            code: the weight.
            accuracy: exact, or estimated by a race that was lost.
            plan: that of the shot which brought it; nothing for a uniform draw.
        """
        is_new = code not in self._seen
        share = 1.0 if plan is None else self._learn(plan, accuracy)
        if is_new:
            self._spread.add(accuracy, 1.0 / max(share, 1.0))
        self._seen[code] = accuracy

    def _learn(self, plan: Plan, accuracy: float) -> float:
        """Learn from a shot; return how many times likelier than a uniform draw its weight was."""
        test = plan.test
        if test != self._test:
            if self._test is not None:
                self._mean_score.drift()
            self._test = test
        score = test.score(np.array([accuracy]))
        if self._mean_of is None:
            _, least = self._predicted(test)
            self._mean_score.learn(self._spread, test.score, least, accuracy, plan.k)
        means, belief = self.belief(test)
        shot = np.array([plan.k])
        (hits,) = hit_probability(test.score(GRID), means, shot, self.num_codes)
        self._log_missed = self._log_missed + np.log1p(-np.minimum(hits, 1.0 - 1e-9))
        self._missed = belief @ np.exp(self._log_missed)
        return float(belief @ share_of(score, means, plan.k))

    def missed(self, accuracy: float) -> float:
        """Return the probability that all shots so far missed a weight at least so accurate.

        The largest over the accuracies from this one to 1; 0 when none is that accurate.
        """
        above = self._missed[accuracy - 1e-9 <= GRID]
        return float(above.max()) if above.size else 0.0

    def plan(self, incumbent: float, max_queries: float = float("inf")) -> Plan | None:
        """Return the plan of the next shot; nothing when nothing better can exist or be afforded.

        Args:
            incumbent: the best accuracy so far.
            max_queries: most model queries that the shot may cost.
        """
        places, hoped = self._spread.above(incumbent)
        if not places.size:
            return None
        hoped = hoped * self._missed[-places.size :]  # still unseen after so many shots
        gain = hoped * (places - incumbent)
        best, best_value = None, -1.0
        for test in self._ladder(incumbent):
            for plan, value in self._valued(test, places, hoped, gain, max_queries):
                if value > best_value:
                    best, best_value = plan, value
        return best

    def _valued(
        self,
        test: CoherentTest,
        places: Floats,
        hoped: Floats,
        gain: Floats,
        max_queries: float,
    ) -> Iterator[tuple[Plan, float]]:
        """Yield the plans that one test allows, each with its expected gain for its cost."""
        score = test.score(places)
        means, belief = self.belief(test)
        mean = middle(means, belief)
        ks = iterations(best_k(mean))
        ks = ks[: int(np.searchsorted((2 * ks + 1) * test.cost, max_queries, side="right"))]
        hits = np.einsum("m,kmp->kp", belief, hit_probability(score, means, ks, self.num_codes))
        values = hits @ gain / ((2 * ks + 1) * test.cost + self._shot_cost)
        for k, value, hit in zip(ks, values, hits @ hoped, strict=True):
            flag = float(belief @ success(means, int(k)))
            yield Plan(test, int(k), min(float(hit), 1.0), flag, mean), float(value)

    def belief(self, test: CoherentTest) -> tuple[Floats, Floats]:
        """Return possible mean scores of a test and the belief in each (sums to 1)."""
        if self._mean_of is not None:
            known = min(max(self._mean_of(test), 1e-12), 1.0 - 1e-9)
            return np.array([known]), np.ones(1)
        return self._mean_score.belief(*self._predicted(test))

    def _predicted(self, test: CoherentTest) -> tuple[float, float]:
        """Return a test's mean score as the spread predicts it, and a bound from what was seen."""
        seen = test.score(np.array(list(self._seen.values())))
        least = self._spread.body_score(test.score) + float(seen.sum()) / self.num_codes
        return self._spread.mean_score(test.score), least


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
