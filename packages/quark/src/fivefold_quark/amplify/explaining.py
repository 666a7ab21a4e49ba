"""What a search would take and bring, said before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from fivefold import UserError

from .._words import EngineName
from ..config import QuarkConfig
from ..engine.coherent import WEAK, CoherentTest, is_too_weak
from ..engine.engines.choosing import build_engine
from ..engine.formula import best_k, success
from ..engine.problem import Problem
from .blocks import Block, blocks_of, random_weights
from .ladder import fixed, ladder
from .planner import Plan, Planner, middle
from .schedules import GATE_QUERIES, SHOT_COST

_LOOKED_AT = 64
_SURE = 0.05
"""A sample that was not looked at is right with a probability at least so far from 0 and 1."""


@dataclass(frozen=True)
class Explanation:
    """A plan in numbers."""

    plan: Plan
    shots: float | None
    """Expected shots to a better weight, if one is there."""
    engine: str
    """The engine that would run."""
    engines: list[dict[str, Any]]
    """A row each: qubits, memory, whether it fits, advice."""
    warnings: list[str]

    @property
    def chosen(self) -> dict[str, Any]:
        """The row of the engine that would run."""
        return next(row for row in self.engines if row["engine"] == self.engine)

    def figures(self) -> dict[str, float | None]:
        """Return the plan's numbers, by documented name."""
        return {
            "theta": math.asin(math.sqrt(min(max(self.plan.mean, 0.0), 1.0))),
            "mean_score": self.plan.mean,
            "k": self.plan.k,
            "expected_success": self.plan.flag,
            "expected_hit": self.plan.hit,
            "queries_per_shot": self.plan.queries,
            "expected_shots": self.shots,
            "qubits": self.chosen["qubits"],
            "memory_gib": self.chosen["memory_gib"],
        }

    def summary(self) -> dict[str, object]:
        """Return the plan as one line of a table."""
        figures = self.figures()
        kept = ("theta", "k", "expected_success", "expected_hit", "queries_per_shot")
        return {"test": self.plan.test.label, **{name: figures[name] for name in kept}}


def explain(problem: Problem, config: QuarkConfig, looked_at: int = _LOOKED_AT) -> Explanation:
    """Return what a search would take and bring.

    Args:
        problem: what would be searched.
        config: the search's settings.
        looked_at: random weights, and samples of each, from which scores are predicted.

    Raises:
        UserError: no shot can be planned within the budget.
    """
    warnings = []
    if problem.register.num_bits > config.block_bits:
        bits = problem.register.num_bits
        warnings.append(f"{bits} weight bits train in blocks of {config.block_bits}: the first")
        problem = _first_block(problem, config)
    plan = planned(problem, config, looked_at)
    engines = [_row(problem, name, plan.test) for name in EngineName if name is not EngineName.AUTO]
    engine = config.engine
    if engine is EngineName.AUTO:
        engine = EngineName(_auto(problem))
    (top,) = plan.test.score(np.ones(1))
    if plan.k == 0 and is_too_weak(plan.mean, float(top)):
        warnings.append(WEAK)
    shots = 1.0 / plan.hit if plan.hit > 0 else None
    return Explanation(plan, shots, str(engine), engines, warnings)


def planned(problem: Problem, config: QuarkConfig, looked_at: int = _LOOKED_AT) -> Plan:
    """Return the first amplified shot that a search would run.

    Raises:
        UserError: none can be planned within the budget.
    """
    random = np.random.default_rng([config.seed, 10])
    register, count = problem.register, len(problem.probabilities)
    size = register.size
    most = float(config.budget.model_queries)
    if config.engine is EngineName.GATES:
        most = min(most, GATE_QUERIES)
    planner = Planner(size, ladder(config.test), _cost(config, count), seed=config.seed)
    accuracies = _looked_at(problem, looked_at, random)
    for accuracy in accuracies:
        chance = min(max(accuracy, _SURE), 1.0 - _SURE)
        error = math.sqrt(chance * (1.0 - chance) / min(looked_at, count))
        planner.estimated(accuracy, error if looked_at < count else 0.0)
    top = float(np.max(accuracies))
    plan = planner.plan(min(top, 1.0 - 1.0 / max(count, 2)), most)
    if plan is not None and config.schedule.kind == "planner" and config.schedule.k is None:
        return plan
    if plan is None and config.schedule.kind == "planner":
        raise UserError(
            "no shot can be planned within the budget",
            setting="optimization.budget.model_queries",
            remedy="raise it",
        )
    test = (
        fixed(config.test, top) if config.schedule.kind != "planner" or plan is None else plan.test
    )
    means, belief = planner.belief(test)
    mean = middle(means, belief)
    k = best_k(mean) if config.schedule.k is None else config.schedule.k
    score = float(test.score(np.array([1.0]))[0])
    flag = float(success(mean, k))
    return Plan(test, k, min(flag * score / (size * mean), 1.0), flag, mean)


def _first_block(problem: Problem, config: QuarkConfig) -> Block:
    """Return the block that a search would begin with, the other weights at random."""
    random = np.random.default_rng([config.seed, 6])
    weights = random_weights(problem, random)
    parameters = next(blocks_of(problem.register, config.block_bits, random))
    return Block(problem, parameters, weights)


def _cost(config: QuarkConfig, count: int) -> float:
    given = config.schedule.shot_cost
    return max(SHOT_COST, float(count)) if given is None else given


def _looked_at(problem: Problem, count: int, random: np.random.Generator) -> list[float]:
    """Return the accuracies of random weights, each on random training samples."""
    weights = problem.probabilities
    drawn = [
        np.concatenate(
            [
                random.choice(spec.codes) >> np.arange(spec.bits) & 1
                for spec in problem.register.specs
            ]
        )
        for _ in range(count)
    ]
    samples = random.choice(len(weights), size=min(count, len(weights)), p=weights, replace=False)
    right = problem.evaluate_batch(np.array(drawn, dtype=np.uint8), samples)
    chosen = weights[samples] / weights[samples].sum()
    return [float(value) for value in right @ chosen]


def _auto(problem: Problem) -> str:
    try:
        return build_engine(EngineName.AUTO, problem).name
    except UserError:
        return str(EngineName.TENSOR)


def _row(problem: Problem, name: EngineName, test: CoherentTest) -> dict[str, Any]:
    try:
        found = build_engine(name, problem).footprint(test)
    except UserError as error:
        return {
            "engine": str(name),
            "qubits": problem.register.num_bits,
            "memory_gib": math.nan,
            "fits": False,
            "advice": f"{error.problem}; {error.remedy}",
        }
    return {
        "engine": str(name),
        "qubits": found.qubits,
        "memory_gib": found.memory / 2**30,
        "fits": found.fits,
        "advice": "" if found.fits else found.advice,
    }
