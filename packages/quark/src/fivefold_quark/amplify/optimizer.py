"""`optimization=quark`: one register, or block after block, searched by amplitude amplification."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from fivefold import UserError
from jaxtyping import UInt8
from numpy import ndarray

from .._words import EngineName
from ..config import QuarkConfig
from ..engine.coherent import WEAK, is_too_weak
from ..engine.engines.choosing import build_engine
from ..engine.engines.protocol import Engine
from ..engine.ledger import Ledger
from ..engine.optimizer import Callback, Incumbent, OptimizationResult
from ..engine.oracle import Oracle
from ..engine.problem import Problem
from .blocks import Block, blocks_of, random_weights
from .planner import Plan
from .schedules import schedule_for
from .search import UNIFORM_DRAW, Outcome, Search, Spent

_log = logging.getLogger(__name__)
_CHECKED = 64
"""Largest register whose whole histogram is recorded; of others, the most frequent codes."""

EngineMaker = Callable[[Problem], Engine]


def build(config: QuarkConfig) -> QuarkOptimizer:
    """Return the optimiser that the settings describe."""
    return QuarkOptimizer(config)


@dataclass
class _Trace:
    """What all searches of a run found together."""

    weights: UInt8[ndarray, " bit"] | None = None
    accuracy: float = -1.0
    stopped: str = "budget"
    incumbents: list[Incumbent] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    histogram: dict[str, int] = field(default_factory=dict)
    plan: Plan | None = None
    num_blocks: int = 0

    def take(self, found: Outcome, bits: UInt8[ndarray, " bit"]) -> bool:
        """Take a search's outcome; says whether it is better than what there was."""
        self.stopped = found.stopped
        self.incumbents += [i for i in found.incumbents if i.accuracy > self.accuracy + 1e-12]
        self.history += found.history
        self.plan = found.last_plan or self.plan
        self.num_blocks += 1
        is_better = found.accuracy > self.accuracy + 1e-12
        if is_better or self.weights is None:
            self.weights, self.accuracy = bits, found.accuracy
        return is_better


class QuarkOptimizer:
    """Quark: weights and data in superposition, good branches amplified, weights measured.

    Source: arXiv 2210.01311; the planner, the race and the blocks are ours.

    Args:
        config: settings.
        engine: makes the engine of a problem; by `config.engine` when not given.
    """

    def __init__(self, config: QuarkConfig, engine: EngineMaker | None = None) -> None:
        self.config = config
        self._engine = engine or self._configured

    def _configured(self, problem: Problem) -> Engine:
        config = self.config
        options: dict[str, Any] = {}
        if config.engine is EngineName.GATES:
            options |= {"layout": config.layout, "seed": config.seed}
        if config.noise.is_any:
            options["noise"] = config.noise
        if config.sampler:
            options["sampler"] = config.sampler
        return build_engine(config.engine, problem, **options)

    def optimize(self, problem: Problem, callbacks: Sequence[Callback] = ()) -> OptimizationResult:
        """Search the weights that get most training samples right."""
        trace, spent = _Trace(), Spent()
        if problem.register.num_bits <= self.config.block_bits:
            oracle = Oracle(problem, self._engine(problem), self.config.seed)
            found = self._searched(oracle, self.config, callbacks, spent)
            if found.code >= 0:
                trace.take(found, oracle.register.bits(np.array([found.code]))[0])
            trace.stopped = found.stopped
            trace.histogram = _histogram(found, oracle)
            spent.ledger.add(oracle.ledger)
        else:
            self._sweep(problem, callbacks, trace, spent)
        return self._result(problem, trace, spent.ledger)

    def _searched(
        self,
        oracle: Oracle,
        config: QuarkConfig,
        callbacks: Sequence[Callback],
        spent: Spent,
        start: int | None = None,
        block: Block | None = None,
    ) -> Outcome:
        schedule = schedule_for(config, oracle)

        def widen(code: int) -> UInt8[ndarray, " bit"]:
            bits = oracle.register.bits(np.array([code]))
            found: UInt8[ndarray, " bit"] = (bits if block is None else block.widen(bits))[0]
            return found

        found = Search(oracle, schedule, config, callbacks, spent, widen).run(start)
        _warn_if_weak(found)
        return found

    def _sweep(
        self, problem: Problem, callbacks: Sequence[Callback], trace: _Trace, spent: Spent
    ) -> None:
        """Train block by block until a whole sweep improves nothing."""
        random = np.random.default_rng([self.config.seed, 6])
        weights = random_weights(problem, random)
        is_moving = True
        while is_moving:
            is_moving = False
            for parameters in blocks_of(problem.register, self.config.block_bits, random):
                block = Block(problem, parameters, weights)
                oracle = Oracle(block, self._engine(block), int(random.integers(2**31)))
                start = block.register.code(weights[None, problem.register.columns(parameters)])
                config = replace(self.config, seed=int(random.integers(2**31)))
                found = self._searched(oracle, config, callbacks, spent, int(start[0]), block)
                spent.ledger.add(oracle.ledger)
                if found.code < 0:  # interrupted before its first verification
                    trace.stopped = found.stopped
                    return
                bits = block.widen(block.register.bits(np.array([found.code])))[0]
                is_first = trace.weights is None
                is_moving |= trace.take(found, bits) or is_first
                weights = bits if trace.weights is None else trace.weights
                if found.stopped in ("budget", "interrupted", "target") or found.accuracy == 1.0:
                    return

    def _result(self, problem: Problem, trace: _Trace, ledger: Ledger) -> OptimizationResult:
        if trace.weights is None:
            if trace.stopped == "interrupted":
                raise KeyboardInterrupt
            raise UserError(
                "the budget does not allow one measurement",
                setting="optimization.budget",
                remedy="raise model_queries",
            )
        score = getattr(problem, "test_accuracy", lambda _: None)(trace.weights[None])
        return OptimizationResult(
            method="quark",
            weights=tuple(int(bit) for bit in trace.weights),
            train_accuracy=trace.accuracy,
            test_accuracy=None if score is None else float(score[0]),
            ledger=ledger,
            stopped=trace.stopped,
            incumbents=trace.incumbents,
            details={
                "history": trace.history,
                "histogram": trace.histogram,
                "blocks": trace.num_blocks,
                "plan": trace.plan,
                "theta_source": self._theta_source(),
            },
        )

    def _theta_source(self) -> str:
        source = self.config.theta.source
        if source != "auto":
            return source
        return "learnt" if self.config.schedule.kind == "planner" else "sampled"


def _histogram(found: Outcome, oracle: Oracle) -> dict[str, int]:
    counted = found.histogram.most_common(_CHECKED)
    bits = oracle.register.bits(np.array([code for code, _ in counted], dtype=np.int64))
    return {oracle.register.text(row): count for row, (_, count) in zip(bits, counted, strict=True)}


def _warn_if_weak(found: Outcome) -> None:
    """Say so where the test hardly told weights apart, so that no iteration could help."""
    plan = found.last_plan
    if plan is None:
        return
    drawn = [shot["accuracy"] for shot in found.history if shot["test"] == UNIFORM_DRAW]
    mean = float(plan.test.score(np.array(drawn)).mean()) if drawn else plan.mean
    top = float(plan.test.score(np.array([found.accuracy]))[0])
    if is_too_weak(mean, top):
        _log.warning("%s (mean score %.2f of %s)", WEAK, mean, plan.test.label)
