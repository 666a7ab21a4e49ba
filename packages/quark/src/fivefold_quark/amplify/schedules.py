"""Schedules: how the next shot is chosen, from the planner down to one k for all."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from .._words import EngineName
from ..config import QuarkConfig
from ..engine.coherent import CoherentTest, Damped
from ..engine.formula import best_k, exact_k, success
from ..engine.oracle import Oracle
from ..engine.racing import Verdict
from .ladder import fixed, ladder
from .planner import Plan, Planner

SHOT_COST = 400.0
"""Model queries that one measurement counts for, beside its own."""
GATE_QUERIES = 32.0
"""Most model queries of a planned shot whose circuit runs gate by gate."""
_STALE = 12
"""Shots without a new candidate after which k is drawn at random."""


@runtime_checkable
class Schedule(Protocol):
    """Chooses shots, and says when no more are worth it."""

    num_first: int
    """Uniform draws to begin with."""
    patience: int
    """Factor on `schedule.patience`."""

    def next(self, incumbent: float, queries_left: float) -> Plan | None:
        """Return the next shot's plan; nothing when none can be afforded."""

    def saw(
        self, code: int, verdict: Verdict, plan: Plan | None, *, is_new: bool, is_better: bool
    ) -> None:
        """Take what a shot brought."""

    def is_sure(self, incumbent: float) -> bool:
        """Whether nothing better is to be expected."""


def schedule_for(config: QuarkConfig, oracle: Oracle) -> Schedule:
    """Return the schedule that the settings name."""
    if config.schedule.kind == "planner":
        return Planned(config, oracle)
    if config.schedule.kind == "bbht":
        return Growing(config, oracle)
    return Constant(config, oracle)


class Theta:
    """Where mean scores come from: the simulator, or shots that measure the flag."""

    def __init__(self, config: QuarkConfig, oracle: Oracle, *, exact: bool) -> None:
        self._oracle = oracle
        self._shots = config.theta.shots
        self._exact = exact
        self._known: dict[CoherentTest, float] = {}

    def mean(self, test: CoherentTest) -> float:
        """Return a test's mean score; each test is asked about once."""
        if test not in self._known:
            self._known[test] = self._exact_or_sampled(test)
        return self._known[test]

    def _exact_or_sampled(self, test: CoherentTest) -> float:
        if self._exact:
            return self._oracle.exact_mean(test)
        least = 1.0 / self._oracle.num_codes  # one weight with score 1 may be all there is
        return max(self._oracle.measure_flag(test, self._shots) / self._shots, least)


class Planned:
    """The planner's choice at each shot; when it only sees what it knows, k at random below."""

    patience = 10**6  # it ends by confidence

    def __init__(self, config: QuarkConfig, oracle: Oracle) -> None:
        self.num_first = config.schedule.first
        cost = config.schedule.shot_cost
        source = config.theta.source
        theta = Theta(config, oracle, exact=source == "exact")
        self._planner = Planner(
            oracle.num_codes,
            ladder(config.test),
            max(SHOT_COST, float(oracle.num_samples)) if cost is None else cost,
            None if source == "auto" else theta.mean,
            config.seed,
        )
        self._epsilon = config.epsilon
        self._error = 1.0 - config.schedule.confidence
        self._random = np.random.default_rng([config.seed, 5])
        self._most = GATE_QUERIES if config.engine is EngineName.GATES else float("inf")
        self._stale = 0

    def next(self, incumbent: float, queries_left: float) -> Plan | None:
        """Return the plan with the largest expected gain for its cost."""
        queries_left = min(queries_left, self._most)
        plan = self._planner.plan(incumbent, queries_left)
        if plan is None or self._stale < _STALE:
            return plan
        k = int(self._random.integers(2 * plan.k + 2))
        drawn = Plan(plan.test, k, plan.hit, float(success(plan.mean, k)), plan.mean)
        return drawn if drawn.queries <= queries_left else plan

    def saw(
        self, code: int, verdict: Verdict, plan: Plan | None, *, is_new: bool, is_better: bool
    ) -> None:
        """Let the planner learn."""
        self._stale = 0 if is_new else self._stale + 1
        self._planner.saw(code, verdict.accuracy, plan, verdict.error)

    def is_sure(self, incumbent: float) -> bool:
        """Whether a weight that is better by epsilon would have been seen."""
        return self._planner.missed(incumbent + self._epsilon) <= self._error


class Growing:
    """k uniform below a bound that grows by a factor on failure and falls to 1 on success.

    Source: Boyer, Brassard, Hoyer and Tapp, quant-ph/9605034; Duerr and Hoyer, quant-ph/9607014.
    """

    num_first = 1
    patience = 10

    def __init__(self, config: QuarkConfig, oracle: Oracle) -> None:
        self._config = config
        self._most = float(np.sqrt(oracle.num_codes))
        self._bound = 1.0
        self._random = np.random.default_rng([config.seed, 5])

    def next(self, incumbent: float, queries_left: float) -> Plan | None:
        """Return a shot with k drawn below the bound."""
        test = fixed(self._config.test, incumbent)
        k = int(self._random.integers(int(np.ceil(self._bound))))
        plan = Plan(test, k, 0.0, 0.0, 0.0)
        return plan if plan.queries <= queries_left else None

    def saw(
        self, code: int, verdict: Verdict, plan: Plan | None, *, is_new: bool, is_better: bool
    ) -> None:
        """Grow the bound, or begin again."""
        grown = min(self._bound * self._config.schedule.growth, self._most)
        self._bound = 1.0 if is_better else max(grown, 1.0)

    def is_sure(self, incumbent: float) -> bool:
        """Never: it ends by patience."""
        return False


class Constant:
    """One test; k as set, or k* for the test's mean score."""

    num_first = 0
    patience = 1

    def __init__(self, config: QuarkConfig, oracle: Oracle) -> None:
        self._config = config
        self._theta = Theta(config, oracle, exact=config.theta.source == "exact")
        self._is_fixed = config.schedule.kind == "fixed_k"
        self._test: CoherentTest | None = None

    def next(self, incumbent: float, queries_left: float) -> Plan | None:
        """Return the shot; with `optimal_k` the test follows the incumbent."""
        if self._test is None or not self._is_fixed:
            self._test = fixed(self._config.test, max(incumbent, 0.5))
        plan = self._plan(self._test, self._theta.mean(self._test))
        return plan if plan.queries <= queries_left else None

    def _plan(self, test: CoherentTest, mean: float) -> Plan:
        schedule = self._config.schedule
        given = schedule.k if self._is_fixed else None
        if schedule.exact_k and 0.0 < mean < 1.0:
            k = exact_k(mean) if given is None else given
            damped = Damped.exact(test, mean, k)
            return Plan(damped, k, 0.0, 1.0, damped.factor * mean)
        k = best_k(mean) if given is None else given
        return Plan(test, k, 0.0, float(success(mean, k)), mean)

    def saw(
        self, code: int, verdict: Verdict, plan: Plan | None, *, is_new: bool, is_better: bool
    ) -> None:
        """Learn nothing."""

    def is_sure(self, incumbent: float) -> bool:
        """Never: it ends by patience."""
        return False
