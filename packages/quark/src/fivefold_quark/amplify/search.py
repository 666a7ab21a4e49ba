"""The search over one weight register: measure, verify, raise, until nothing better can be hoped.

One shot is one candidate. Everything the search knows comes from an `Oracle`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from ..config import QuarkConfig
from ..engine.coherent import Single
from ..engine.ledger import Ledger
from ..engine.optimizer import Callback, Incumbent, Progress
from ..engine.oracle import Oracle
from ..engine.racing import Verdict, Verifier
from .planner import Plan
from .schedules import Schedule

UNIFORM_DRAW = "uniform draw"
"""What a history calls a shot without amplification."""
ROUND = 12
"""Shots that count as one round."""
_CERTAIN = 1.0 - 1e-12


@dataclass
class Spent:
    """What earlier blocks spent, and when the search began: the budget is for all together."""

    ledger: Ledger = field(default_factory=Ledger)
    began: float = field(default_factory=time.monotonic)


@dataclass
class Outcome:
    """What one search found."""

    code: int
    accuracy: float
    stopped: str
    incumbents: list[Incumbent] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry a shot: test, k, theta, candidate, accuracy."""
    histogram: Counter[int] = field(default_factory=Counter)
    """How often each code was measured."""
    last_plan: Plan | None = None
    """The plan under which the best weights were found; of the last shot where none was."""


class Search:
    """Searches one register.

    Args:
        oracle: what may be asked.
        schedule: plans the shots.
        config: budgets, targets, verification.
        callbacks: told after each shot.
        spent: what counts against the budget already.
        widen: completes a code of this register to all bits of the model, for the record.
    """

    def __init__(
        self,
        oracle: Oracle,
        schedule: Schedule,
        config: QuarkConfig,
        callbacks: Sequence[Callback] = (),
        spent: Spent | None = None,
        widen: Callable[[int], UInt8[ndarray, " bit"]] | None = None,
    ) -> None:
        self._oracle = oracle
        self._schedule = schedule
        self._config = config
        self._callbacks = callbacks
        self._spent = spent or Spent()
        self._widen = widen or (lambda code: oracle.register.bits(np.array([code]))[0])
        verify = config.verify
        self._verifier = Verifier(
            oracle, config.seed, races=verify.kind == "racing", confidence=verify.confidence
        )
        self._found = Outcome(-1, -1.0, "budget")
        self._since_better = 0

    def run(self, start: int | None = None) -> Outcome:
        """Search to the end; a `KeyboardInterrupt` ends it with the best weights so far.

        Args:
            start: a code that is known: the first incumbent.
        """
        try:
            if start is not None:
                self._take(start, None)
            self._found.stopped = self._draw_first() or self._shoot()
        except KeyboardInterrupt:
            self._found.stopped = "interrupted"
        if self._config.schedule.result == "mode" and self._found.histogram:
            self._take_the_mode()
        return self._found

    def _draw_first(self) -> str:
        """Measure the register without amplification: the first candidates, uniform draws."""
        for _ in range(self._schedule.num_first):
            ended = self._ended()
            if ended:
                return ended
            (code,) = self._oracle.measure(Single(), 0)
            self._shot(int(code), None)
        return ""

    def _shoot(self) -> str:
        """Measure as planned until the search ends; return why."""
        while True:
            ended = self._ended()
            if ended:
                return ended
            plan = self._schedule.next(self._found.accuracy, self._queries_left())
            if plan is None:
                return "budget" if self._found.accuracy < _CERTAIN else "confidence"
            (code,) = self._oracle.measure(plan.test, plan.k)
            self._shot(int(code), plan)

    def _shot(self, code: int, plan: Plan | None) -> None:
        self._found.histogram[code] += 1
        is_new = code not in self._verifier
        before = self._found.accuracy
        verdict = self._take(code, plan)
        is_better = self._found.accuracy > before
        self._since_better = 0 if is_better else self._since_better + 1
        self._schedule.saw(code, verdict, plan, is_new=is_new, is_better=is_better)
        self._remember(code, verdict.accuracy, plan)
        progress = Progress(
            sum(self._found.histogram.values()),
            plan.k if plan else 0,
            plan.tau if plan else 0.0,
            self._found.accuracy,
            self._total(),
        )
        for callback in self._callbacks:
            callback(progress)

    def _take(self, code: int, plan: Plan | None) -> Verdict:
        """Verify a candidate and make it the incumbent where it is better."""
        verdict = self._verifier.verify(code, self._found.accuracy)
        if verdict.is_exact and verdict.accuracy > self._found.accuracy + 1e-12:
            self._found.code, self._found.accuracy = code, verdict.accuracy
            self._found.last_plan = plan or self._found.last_plan
            bits = tuple(int(bit) for bit in self._widen(code))
            self._found.incumbents.append(Incumbent(bits, verdict.accuracy, self._total()))
        return verdict

    def _remember(self, code: int, accuracy: float, plan: Plan | None) -> None:
        self._found.last_plan = self._found.last_plan or plan
        self._found.history.append(
            {
                "test": plan.test.label if plan else UNIFORM_DRAW,
                "k": plan.k if plan else 0,
                "mean_score": plan.mean if plan else None,
                "expected_hit": plan.hit if plan else None,
                "code": code,
                "accuracy": accuracy,
                "incumbent": self._found.accuracy,
            }
        )

    def _take_the_mode(self) -> None:
        """Return what a plain histogram would: the code that was measured most often."""
        (code, _), *_ = self._found.histogram.most_common(1)
        self._found.code, self._found.accuracy = code, self._oracle.accuracy(code)

    # ----------------------------------------------------------------------------- its end

    def _ended(self) -> str:
        """Return why the search is over; nothing while it goes on."""
        config, total = self._config, self._total()
        target = config.target_accuracy
        if target is not None and self._found.accuracy >= target - 1e-12:
            return "target"
        if self._found.accuracy >= _CERTAIN:
            return "confidence"
        if len(self._verifier) >= config.schedule.confidence * self._oracle.num_codes:
            return "exhausted"  # as many settings as random search would have to see
        if total.measurements >= config.budget.shots or self._queries_left() < 1:
            return "budget"
        if time.monotonic() - self._spent.began >= config.budget.seconds:
            return "budget"
        if self._schedule.is_sure(self._found.accuracy):
            return "confidence"
        if self._since_better >= config.schedule.patience * ROUND * self._schedule.patience:
            return "patience"
        return ""

    def _queries_left(self) -> float:
        return float(self._config.budget.model_queries - self._total().model_queries)

    def _total(self) -> Ledger:
        total = self._spent.ledger.copy()
        total.add(self._oracle.ledger)
        return total
