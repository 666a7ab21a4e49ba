"""`fivefold graph`: load, train with a progress bar, print the table, draw, leave a checkpoint."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fivefold import Run, UserError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import DataConfig, ModelConfig, RuntimeConfig
from ..task_configs import GraphConfig
from .api import description_of, make_session
from .checkpoint import CheckpointFolder, Saved, check_same
from .curve_plot import draw_curve
from .graph import GraphData
from .loop import Curve, Outcome, Point, fit
from .models import make_plan
from .plan import LayerPlan
from .sources import load_graph
from .training import GraphTraining, Session

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_MB = 1e6


def run(config: GraphConfig, run: Run) -> int:
    """Train as the settings say; every rank of torchrun does, and rank 0 reports."""
    runtime = run.node("runtime", RuntimeConfig)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    session = make_session(config, runtime.device, _DTYPES[runtime.dtype])
    data = load_graph(run.node("data", DataConfig))
    plan = make_plan(
        run.node("model", ModelConfig),
        data.num_features,
        data.num_classes,
        seed=config.seed,
        dtype=session.dtype,
    )
    if session.rank == 0:
        _introduce(plan, data, run)
    method: GraphTraining = run.build("training", plan, data, session)
    try:
        outcome = _train(config, run, method, plan, data, session)
        facts = method.facts()
        if session.rank == 0:
            _report(outcome.curve, facts, data, run)
            _draw(config, run, method, outcome.curve, data)
    finally:
        method.close()
    return 0


def _train(
    config: GraphConfig,
    run: Run,
    method: GraphTraining,
    plan: LayerPlan,
    data: GraphData,
    session: Session,
) -> Outcome:
    own = Path(config.checkpoint) if config.checkpoint else run.folder / "checkpoint"
    folder = Path(method.exchange(str(own.resolve()))[0])  # all ranks write into rank 0's
    keeper = CheckpointFolder(folder, session.rank)
    described = description_of(plan, data, method, session)
    saved = _saved(config, described, session)
    if session.rank == 0:
        goes_on = saved is not None and Path(config.resume).resolve() == folder
        keeper.describe(described, anew=not goes_on)
    with _bar(config, session) as progress:
        task = progress.add_task("", total=config.epochs, completed=saved.epoch if saved else 0)
        last: list[float] = []

        def watch(point: Point) -> None:
            if session.rank == 0:
                last[:] = [point.val] if point.val is not None else last
                _note_point(point, run)
                said = _line(point, last[0] if last else None)
                progress.update(task, advance=1, description=said)

        outcome = fit(method, data, config, keeper=keeper, saved=saved, watch=watch)
    if session.rank == 0:
        run.note(f"checkpoint: {folder}")
    return outcome


def _saved(config: GraphConfig, described: dict[str, object], session: Session) -> Saved | None:
    """Return the state to go on from, if one is asked for and belongs to this run.

    Raises:
        UserError: a state of another run, or one that has all epochs already.
    """
    if not config.resume:
        return None
    folder = CheckpointFolder(Path(config.resume), session.rank)
    check_same(folder.description("resume"), described, "resume")
    saved = folder.read_state("resume")
    if saved.epoch >= config.epochs:
        raise UserError(
            f"the checkpoint has {saved.epoch} epochs already, and nothing is left to train",
            setting="epochs",
            value=config.epochs,
            remedy=f"give more than {saved.epoch}",
        )
    return saved


# ------------------------------------------------------------------------------------- on screen


def _introduce(plan: LayerPlan, data: GraphData, run: Run) -> None:
    labelled = int(data.train_mask.sum())
    run.note(
        f"{data.name}: {data.num_nodes:,} vertices, {data.num_edges:,} directed edges, "
        f"{data.num_features} features, {data.num_classes} classes, {labelled:,} to learn from "
        f"(hash {data.digest}); {plan.num_blocks} layers, {plan.num_parameters():,} weights"
    )
    run.environment(threads=torch.get_num_threads(), graph=data.name, graph_digest=data.digest)
    known = {key: value for key, value in data.facts.items() if key != "classes"}
    run.environment(**known)


def _bar(config: GraphConfig, session: Session) -> Progress:
    console = Console(file=sys.stderr)
    return Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}"),
        console=console,
        disable=session.rank > 0 or not console.is_terminal,
    )


def _line(point: Point, val: float | None) -> str:
    """Return what the bar says: loss, validation score, bytes, staleness."""
    parts = [f"loss {point.loss:.3f}"]
    parts += [f"val {val:.3f}"] if val is not None else []
    parts += [f"{point.bytes / _MB:.1f} MB/epoch"] if point.bytes else []
    if point.staleness:
        parts.append("stale " + " ".join(f"{value:.2f}" for value in point.staleness))
    return ", ".join(parts)


def _note_point(point: Point, run: Run) -> None:
    """Record every epoch; where no bar is drawn, evaluated epochs are told."""
    run.row(**asdict(point))
    if point.val is not None and not sys.stderr.isatty():
        run.note(
            f"epoch {point.epoch}: loss {point.loss:.4f}, val {point.val:.4f}, "
            f"{point.bytes / _MB:.2f} MB, {point.seconds:.3f} s"
        )


def _report(
    curve: Curve, facts: dict[str, float | int | str | None], data: GraphData, run: Run
) -> None:
    """Print the table and record its figures."""
    name = "micro_f1" if data.is_multilabel else "accuracy"
    last, size = curve.points[-1], facts.get("bytes_formula")
    figures: dict[str, float | None] = {
        "best_epoch": curve.best_epoch,
        **curve.best.named(f"best_{name}_"),
        **curve.last.named(f"last_{name}_"),
        "final_loss": last.loss,
        "seconds_per_epoch": curve.seconds_per_epoch(),
        "seconds_waited_per_epoch": curve.seconds_per_epoch("waited"),
        "seconds_compute_per_epoch": curve.seconds_per_epoch("computed"),
        "bytes_per_epoch": last.bytes,
    }
    figures |= {key: value for key, value in facts.items() if not isinstance(value, str)}
    for name_of, figure in figures.items():
        run.figure(name_of, figure)
    run.environment(links=curve.links, **{k: v for k, v in facts.items() if isinstance(v, str)})
    said: list[dict[str, Any]] = [
        {"what": f"{name} at the best validation epoch ({curve.best_epoch})", "value": ""},
        *({"what": f"  {k}", "value": _share(v)} for k, v in curve.best.named().items()),
        {"what": "seconds an epoch (median)", "value": f"{figures['seconds_per_epoch']:.4f}"},
        {"what": "bytes an epoch, sent", "value": f"{last.bytes:,}"},
        {"what": "bytes an epoch, by the formula", "value": f"{size:,}"},
    ]
    peak = facts.get("peak_memory_bytes")
    if isinstance(peak, int | float):
        said.append({"what": "peak memory, largest rank", "value": _size(peak)})
    for key, value in facts.items():
        if key not in ("bytes_formula", "peak_memory_bytes"):
            said.append(_said(key, value))
    run.table(f"{data.name}, {run.method('training').name}", said)


def _said(key: str, value: float | int | str | None) -> dict[str, Any]:
    """Return a row of the table: what a method says beside."""
    words = key.replace("_", " ")
    if isinstance(value, int) and "_bytes" in key:
        return {"what": words.replace(" bytes", ","), "value": _size(value)}
    return {"what": words, "value": f"{value:.3g}" if isinstance(value, float) else value}


def _size(count: float | int) -> str:
    """Return a number of bytes as it is read best."""
    return f"{count / _MB:,.1f} MB" if count >= _MB else f"{count / 1e3:,.1f} kB"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _draw(
    config: GraphConfig, run: Run, method: GraphTraining, curve: Curve, data: GraphData
) -> None:
    """Draw the curve, and whatever picture the method has of itself."""
    if not config.plots:
        return
    draw_curve(curve, run.folder / "curve.png", f"{data.name}, {run.method('training').name}")
    picture = getattr(method, "draw", None)
    if callable(picture):
        picture(run.folder)
    run.note(f"pictures: {run.folder}")
