"""What a training run leaves in `result.json` and says at its end."""

from __future__ import annotations

import torch
from fivefold import Run
from fivefold_lm.offload.sizes import in_units

from .ranks import Ranks
from .session import Session


def conclude(session: Session, run: Run, ranks: Ranks) -> None:
    """Record the figures and tell where the checkpoint lies; also of a run that was cut short.

    Args:
        session: the run.
        run: of the task.
        ranks: the processes; the first one speaks.
    """
    progress, meter = session.loop.progress, session.meter
    figures: dict[str, float | None] = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": session.tokens_per_second,
        "first_loss": session.losses[0] if session.losses else None,
        "loss": session.losses[-1] if session.losses else None,
        "peak_bytes": meter.live,
        "predicted_peak_bytes": session.predicted,
        **session.last,
    }
    for name, value in figures.items():
        run.figure(name, value)
    run.environment(
        device=str(session.meter.device),
        threads=torch.get_num_threads(),
        processes=ranks.size,
        checkpoint=str(session.saved or ""),
    )
    for row in session.evaluations:
        run.row(**row)
    if not ranks.is_first or not session.losses:
        return
    said = {name: _shown(name, value) for name, value in figures.items() if value is not None}
    run.table("Training", [{"figure": name, "value": value} for name, value in said.items()])
    if session.saved is not None:
        run.print(f"checkpoint: {session.saved}")
        run.print(f"try it: fivefold generate model={session.saved} prompt=…")


def _shown(name: str, value: int | float) -> str:
    if name.endswith("_bytes"):
        return in_units(int(value))
    return f"{value:,.0f}" if name in ("steps", "tokens") else f"{value:,.4g}"
