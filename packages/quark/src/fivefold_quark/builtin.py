"""What this package offers to the host: its optimisers and its tasks. Light: no numpy."""

from __future__ import annotations

from fivefold import Method, Task, hookimpl

from ._words import TASK
from .config import ExhaustiveConfig, ParameterShiftConfig, QuarkConfig, RandomConfig
from .task_configs import TASKS

_NEEDS = frozenset({TASK})


@hookimpl
def fivefold_optimization() -> list[Method]:
    """Describe Quark and the classical methods it is compared with."""
    quark = Method(
        name="quark",
        config=QuarkConfig,
        build="fivefold_quark.amplify.optimizer:build",
        summary="weights and data in superposition, good branches amplified",
        reference="arXiv 2210.01311",
        needs=_NEEDS,
    )
    random = Method(
        name="random",
        config=RandomConfig,
        build="fivefold_quark.engine.baselines.random_search:build",
        summary="uniform draws, raced against the best",
        needs=_NEEDS,
    )
    exhaustive = Method(
        name="exhaustive",
        config=ExhaustiveConfig,
        build="fivefold_quark.engine.baselines.exhaustive:build",
        summary="every weight setting, in full",
        needs=_NEEDS,
    )
    parameter_shift = Method(
        name="parameter_shift",
        config=ParameterShiftConfig,
        build="fivefold_quark.engine.baselines.parameter_shift:build",
        summary="gradient training of rotated weight qubits",
        reference="arXiv 1803.00745; arXiv 1811.11184",
        needs=_NEEDS,
    )
    return [quark, random, exhaustive, parameter_shift]


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe quantum, quantum plan and quantum export."""
    return TASKS
