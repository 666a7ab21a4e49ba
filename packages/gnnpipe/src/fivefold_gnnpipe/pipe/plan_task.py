"""`fivefold graph plan`: what each way of training would cost, and which one to take."""

from __future__ import annotations

import torch
from fivefold import Run, UserError

from ..config import DataConfig, GraphParallelConfig, ModelConfig, RuntimeConfig, TrainOptions
from ..engine.api import make_session
from ..engine.models import make_plan
from ..engine.sources import load_graph
from ..engine.training import Session
from ..engine.transport import DistributedTransport, is_launched, open_distributed
from .config import GNNPipeConfig, PlanConfig
from .link_rate import measured_mbit
from .planner import Prospect, Way, prospect, prospect_of_all

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_ASSUMED_MBIT = 1000.0
_MB = 1e6
_UNKNOWN = "-"
_TIMEOUT = 600.0


def run(config: PlanConfig, run: Run) -> int:
    """Print the table of ways and the recommendation."""
    runtime = run.node("runtime", RuntimeConfig)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    options = TrainOptions(seed=config.seed)
    session = make_session(options, runtime.device, _DTYPES[runtime.dtype])
    chosen = run.settings("training")
    settings = chosen if isinstance(chosen, GNNPipeConfig) else GNNPipeConfig()
    devices = config.devices or settings.stages * settings.ways
    if isinstance(chosen, GraphParallelConfig):
        devices = config.devices or chosen.ways or devices
    if devices < 2:
        raise UserError(
            "there is nothing to divide among one device",
            setting="devices",
            value=devices,
            remedy="give devices=2 or more, or training.stages=2",
        )
    _check_grid(settings, devices)
    end = _joined(session)
    try:
        found, rate, origin = _prospect(config, run, session, settings, devices, end)
    finally:
        if end is not None:
            end.close()
    if session.rank == 0:
        _report(found, rate, origin, run)
    return 0


def _check_grid(settings: GNNPipeConfig, devices: int) -> None:
    """Refuse cuts and chunks of another grid than the one that is planned."""
    if settings.stages * settings.ways == devices:
        return
    for name, value in (("cuts", settings.cuts), ("chunks", settings.chunks)):
        if value:
            raise UserError(
                f"it is for {settings.stages} x {settings.ways} devices, and {devices} are planned",
                setting=f"training.{name}",
                value=value,
                remedy=f"give training.stages={devices} in place of devices, or leave it out",
            )


def _joined(session: Session) -> DistributedTransport | None:
    """Return this rank's end where torchrun has started several."""
    if not is_launched() or session.world == 1:
        return None
    return open_distributed("gloo", torch.device("cpu"), _TIMEOUT)


def _prospect(
    config: PlanConfig,
    run: Run,
    session: Session,
    settings: GNNPipeConfig,
    devices: int,
    end: DistributedTransport | None,
) -> tuple[Prospect, float, str]:
    """Return what each way costs, the link's rate and where that comes from."""
    rate, origin = _rate(config, end)
    data, model = load_graph(run.node("data", DataConfig)), run.node("model", ModelConfig)
    plan = make_plan(
        model, data.num_features, data.num_classes, seed=config.seed, dtype=session.dtype
    )
    if session.rank == 0:
        run.note(
            f"{data.name}: {data.num_nodes:,} vertices, {data.num_edges:,} directed edges; "
            f"{plan.num_blocks} layers; link {rate:g} Mbit/s a device ({origin})"
        )
    asked = (plan, data, session, settings, devices, rate)
    if end is None:
        return prospect(*asked, measures=config.measure), rate, origin
    with end.board.announcing():
        return prospect_of_all(end, *asked, measures=config.measure), rate, origin


def _rate(config: PlanConfig, end: DistributedTransport | None) -> tuple[float, str]:
    """Return the link's rate in Mbit/s and where it comes from."""
    if config.link_mbit is not None:
        return config.link_mbit, "given"
    if end is None:
        return _ASSUMED_MBIT, "assumed; give link_mbit, or start under torchrun to measure it"
    return measured_mbit(end), "measured"


def _report(found: Prospect, rate: float, origin: str, run: Run) -> None:
    rows = [_row(way) for way in found.ways]
    for way, row in zip(found.ways, rows, strict=True):
        run.row(
            **row
            | {
                "bytes": way.bytes,
                "memory_bytes": way.memory_bytes,
                "seconds": way.seconds,
                "seconds_waited": way.seconds_waited,
            }
        )
    run.table("ways to train", rows)
    best = found.best()
    run.figure("boundary_rows", found.boundary)
    run.figure("crossover_layers", found.crossover)
    run.figure("link_mbit", rate)
    run.figure("best_bytes", best.bytes)
    run.figure("best_seconds", best.seconds)
    run.environment(link=origin, recommendation=_named(best), threads=torch.get_num_threads())
    run.print(
        f"a pipeline of all devices sends less than graph parallelism from "
        f"{found.crossover:.1f} layers on"
    )
    run.print(f"recommended: {_named(best)} ({_reason(best, found)})")


def _row(way: Way) -> dict[str, object]:
    return {
        "way": way.name,
        "stages": way.stages,
        "ways": way.ways,
        "MB an epoch": f"{way.bytes / _MB:,.2f}",
        "s an epoch": _UNKNOWN if way.seconds is None else f"{way.seconds:.3f}",
        "s waited": _UNKNOWN if way.seconds_waited is None else f"{way.seconds_waited:.3f}",
        "at work": f"{100 * way.utilisation:.0f} %",
        "MB a device": f"{way.memory_bytes / _MB:,.1f}",
    }


def _named(way: Way) -> str:
    settings = {
        "one device": "training=plain",
        "graph parallel": f"training=graph_parallel training.ways={way.ways}",
        "pipeline": f"training=gnnpipe training.stages={way.stages}",
    }
    hybrid = f"training=gnnpipe training.stages={way.stages} training.ways={way.ways}"
    return f"{way.name}: {settings.get(way.name, hybrid)}"


def _reason(best: Way, found: Prospect) -> str:
    if best.seconds is None:
        return "sends least of those on several devices; nothing was timed"
    others = [way.seconds for way in found.ways if way is not best and way.seconds is not None]
    if not others:
        return "the only way"
    least = found.ways[0].memory_bytes
    if best.name == "one device":
        return f"fastest, if {least / _MB:,.0f} MB fit on one device"
    return f"fastest: {best.seconds:.3f} s an epoch, the next {min(others):.3f} s"
