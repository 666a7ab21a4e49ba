"""What a user may set in quantum, quantum plan and quantum export. Light: no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

from fivefold import Run, Task, UserError
from fivefold.errors import nearest

from ._words import SAMPLERS, TASK, EngineName, Padding, TestKind
from .config import QuarkConfig, check_seed
from .groups import PROBLEM, ProblemConfig

BASELINES = ("random", "random_racing", "exhaustive", "parameter_shift", "logistic_regression")


@dataclass
class QuantumConfig:
    """Train a discretised classifier, and compare with classical search and gradient training."""

    seed: int = 0
    """Seed of all random numbers of the search; takes the place of `optimization.seed`."""
    baselines: list[str] = field(default_factory=lambda: ["auto"])
    """Methods to run beside the chosen one: `random`, `random_racing`, `exhaustive`,
    `parameter_shift`, `logistic_regression`; `[auto]`: all beside `optimization=quark`, none beside
    another; `[]`: none."""
    plots: bool = True
    """Draw P(w) and the success curve into the run folder."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in self.baselines:
            if name != "auto" and name not in BASELINES:
                raise UserError(
                    f"no such baseline {name!r}",
                    setting="baselines",
                    remedy=nearest(name, (*BASELINES, "auto")),
                )


@dataclass
class QuantumPlanConfig:
    """Say what a search would take and bring, before anything runs."""

    seed: int = 0
    """Seed of the weights and samples that are looked at."""
    looked_at: int = 64
    """Random weights, and random samples of each, from which scores are predicted."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.looked_at < 2:
            raise UserError("too few weights to judge by", setting="looked_at", remedy="2 or more")


@dataclass
class QuantumExportConfig:
    """Write the circuit of `engine=gates` as OpenQASM 3."""

    output: str = ""
    """File to write; empty: `circuit.qasm` in the run folder; `-`: standard output."""
    seed: int = 0
    """Seed of what theta is estimated from, where k is not given."""

    def __post_init__(self) -> None:
        check_seed(self.seed)


def check_pair(config: object, run: Run) -> None:
    """Refuse settings that cannot go together, before anything heavy is imported.

    Raises:
        UserError: a sampler or noise without gates, or a sampler that is not known.
    """
    settings = run.settings("optimization")
    if not isinstance(settings, QuarkConfig):
        if not isinstance(config, QuantumConfig):
            raise UserError(
                "only Quark builds a circuit",
                setting="optimization",
                remedy="choose optimization=quark",
            )
        return
    _take_preset(settings, run)
    if settings.sampler not in ("", *SAMPLERS) and ":" not in settings.sampler:
        raise UserError(
            "unknown sampler",
            setting="optimization.sampler",
            remedy=f"{nearest(settings.sampler, SAMPLERS)}, or package.module:factory",
        )
    if settings.engine is EngineName.AUTO and (settings.sampler or settings.noise.is_any):
        settings.engine = EngineName.GATES
    if settings.engine is not EngineName.GATES and (settings.sampler or settings.noise.is_any):
        raise UserError(
            "a sampler and noise need a circuit of gates",
            setting="optimization.engine",
            remedy="set optimization.engine=gates",
        )
    odd = settings.test.L
    if odd is not None and settings.test.kind is TestKind.CHEBYSHEV and odd % 2 == 0:
        raise UserError(
            "the filter's degree must be odd",
            setting="optimization.test.L",
            remedy=f"give {odd + 1}",
        )


def _take_preset(settings: QuarkConfig, run: Run) -> None:
    """Let the paper's preset mark pads in the data register too."""
    if settings.preset == "paper":
        run.node("problem", ProblemConfig).padding = Padding.MARK


def _task(name: str, config: type, function: str, summary: str) -> Task:
    return Task(
        name=name,
        config=config,
        run=f"fivefold_quark.fronts:{function}",
        summary=summary,
        hooks={"optimization": "quark"},
        groups=(PROBLEM,),
        provides=frozenset({TASK}),
        check="fivefold_quark.task_configs:check_pair",
    )


TASKS: list[Task] = [
    _task("quantum", QuantumConfig, "quantum", "train a discretised classifier"),
    _task("quantum plan", QuantumPlanConfig, "plan", "what a search would take and bring"),
    _task("quantum export", QuantumExportConfig, "export", "the circuit as OpenQASM 3"),
]
"""What `fivefold_tasks` returns for this package."""
