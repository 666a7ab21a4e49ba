"""`fivefold quantum`, `quantum plan`, `quantum export`: what is done and shown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from fivefold import Run, UserError

from ._words import EngineName
from .amplify.explaining import Explanation, explain, planned
from .config import QuarkConfig
from .contest import contestants, method_row
from .engine.engines.choosing import build_engine
from .engine.optimizer import OptimizationResult
from .engine.problem import Training
from .engine.problems.choosing import choose_problem
from .groups import ProblemConfig
from .plots import plot_result
from .progress import watching
from .task_configs import QuantumConfig, QuantumExportConfig, QuantumPlanConfig

COLUMNS = (
    "method",
    "train_accuracy",
    "test_accuracy",
    "measurements",
    "model_queries",
    "verification",
    "seconds",
    "stopped",
)
_DRAWN_BITS = 14
"""Longest register whose distribution is drawn."""


def quantum(config: QuantumConfig, run: Run) -> None:
    """Run `fivefold quantum`: train, compare, draw.

    Ctrl-C and budgets keep the best weights: the table and `result.json` are written first.
    """
    problem = choose_problem(run.node("problem", ProblemConfig))
    run.note(describe(problem))
    chosen = run.chosen("optimization")
    chosen.settings.seed = config.seed
    optimizer = chosen.build()
    began = time.perf_counter()
    with watching(chosen, problem) as callbacks:
        result = optimizer.optimize(problem, callbacks)
    _record(result, time.perf_counter() - began, problem, run)
    if not result.is_partial:
        _compare(config, run, problem)
    table = [{key: row.get(key) for key in COLUMNS} for row in run.result.rows]
    run.table(f"{problem.name}: {problem.register.size} weight settings", table, COLUMNS)
    run.print(f"best weights {problem.register.text(result.weights)}{_named(problem, result)}")
    if config.plots:
        _draw(result, chosen.settings, problem, run)
    if result.is_partial:
        raise KeyboardInterrupt


def describe(problem: Training) -> str:
    """Return a problem in one line."""
    tested = len(problem.test) if problem.test is not None else 0
    return (
        f"{problem.name}: {problem.register.num_bits} weight qubits, {len(problem.train)} training "
        f"patterns of {problem.train.num_features} bits, {tested} test samples"
    )


def _record(result: OptimizationResult, seconds: float, problem: Training, run: Run) -> None:
    row = method_row(result, seconds, problem)
    run.row(**row)
    for name in ("train_accuracy", "test_accuracy", "seconds"):
        run.figure(name, row[name])
    for name, value in result.ledger.as_dict().items():
        run.figure(name, value)
    run.figure("measurements", result.ledger.measurements)
    trace = {
        "stopped": result.stopped,
        "incumbents": [
            {
                "weights": problem.register.text(found.weights),
                "accuracy": found.accuracy,
                "ledger": found.ledger.as_dict(),
            }
            for found in result.incumbents
        ],
        "shots": result.details.get("history", []),
        "histogram": result.details.get("histogram", {}),
        "theta_source": result.details.get("theta_source"),
        "blocks": result.details.get("blocks"),
        "problem": problem.about,
    }
    text = json.dumps(trace, indent=1, default=_plain)
    run.write_text(run.folder / "trace.json", text + "\n", "hydra.run.dir")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _compare(config: QuantumConfig, run: Run, problem: Training) -> None:
    """Run the baselines and record a row of each; Ctrl-C ends the comparison, not the record."""
    try:
        for row in contestants(config, run, problem):
            run.row(**row)
    except KeyboardInterrupt:
        run.note("the comparison was interrupted; what had been found is kept")


def _named(problem: Training, result: OptimizationResult) -> str:
    """Return what the weights switch on, where they are few bits with names."""
    bits = np.array([result.weights], dtype=np.uint8)
    values = problem.register.decode(bits)[0]
    if len(values) > 24:
        return ""
    pairs = zip(problem.register.names, values, strict=True)
    return " (" + ", ".join(f"{name}={value:g}" for name, value in pairs) + ")"


def _draw(result: OptimizationResult, settings: Any, problem: Training, run: Run) -> None:
    if result.method != "quark" or problem.register.num_bits > _DRAWN_BITS:
        return
    plan = result.details.get("plan")
    if plan is None:
        run.note("no quantum.png: the search ended among its first draws, before any iteration")
        return
    path = Path(run.folder) / "quantum.png"
    plot_result(path, problem, plan.test, plan.k, result, settings.epsilon)
    run.note(f"drawn: {path.name} in the run folder")


# ------------------------------------------------------------------------------ plan, export


def plan(config: QuantumPlanConfig, run: Run) -> None:
    """Run `fivefold quantum plan`: qubits, memory, theta, k and expected success.

    Raises:
        UserError: the chosen engine cannot hold the circuit.
    """
    problem = choose_problem(run.node("problem", ProblemConfig))
    settings = run.settings("optimization")
    settings.seed = config.seed
    found = explain(problem, settings, config.looked_at)
    run.note(describe(problem))
    _show_plan(found, run)
    refuse_what_does_not_fit(found)


def _show_plan(found: Explanation, run: Run) -> None:
    for name, value in found.figures().items():
        run.figure(name, value)
    run.table("the first amplified shot", [found.summary()])
    for row in found.engines:
        run.row(**row)
    run.table("what each engine would take", found.engines)
    for warning in found.warnings:
        run.note(warning)


def refuse_what_does_not_fit(found: Explanation) -> None:
    """Refuse a plan whose engine cannot hold it.

    Raises:
        UserError: with the numbers, and what to change.
    """
    chosen = found.chosen
    if chosen["fits"]:
        return
    problem = f"{chosen['qubits']} qubits need {chosen['memory_gib']:.3g} GiB"
    remedy = str(chosen["advice"]) or "choose another engine"
    if not np.isfinite(chosen["memory_gib"]):  # the engine takes no such problem: why, and a remedy
        problem, _, remedy = remedy.partition("; ")
    raise UserError(problem, setting="optimization.engine", value=found.engine, remedy=remedy)


def export(config: QuantumExportConfig, run: Run) -> None:
    """Run `fivefold quantum export`: the `gates` circuit as OpenQASM 3."""
    from .engine.circuits.export import to_qasm3

    problem = choose_problem(run.node("problem", ProblemConfig))
    settings: QuarkConfig = run.settings("optimization")
    settings.seed, settings.engine = config.seed, EngineName.GATES
    shot = planned(problem, settings)
    engine = build_engine(EngineName.GATES, problem, layout=settings.layout)
    footprint = engine.footprint(shot.test)
    text = to_qasm3(problem, shot.test, shot.k, settings.layout)
    run.figure("qubits", footprint.qubits)
    run.figure("k", shot.k)
    run.figure("lines", text.count("\n"))
    if config.output == "-":
        run.stream(text)
        return
    path = Path(config.output) if config.output else Path(run.folder) / "circuit.qasm"
    run.write_text(path, text)
    run.note(f"{shot.test.label}, k = {shot.k}, {footprint.qubits} qubits: {path}")
