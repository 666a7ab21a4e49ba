"""Where `fivefold train` begins: say what is loaded, then import what is heavy."""

from __future__ import annotations

from pathlib import Path

from fivefold import Run, UserError

from .config import Objective, TrainConfig, TrainModelConfig


def train(config: TrainConfig, run: Run) -> None:
    """Run `fivefold train`: open the run, train to its end, say where it lies.

    Raises:
        UserError: model, data, method, checkpoint or processes do not fit together.
    """
    if config.resume and not Path(config.resume).expanduser().is_dir():
        raise UserError(
            "there is no such folder",
            setting="resume",
            remedy="give a checkpoint, or the folder in which checkpoints lie",
        )
    name = run.node("model", TrainModelConfig).name
    distils = config.objective is Objective.DISTILL
    run.note(f"loading {config.teacher if distils else name}")
    from .opening import open_session
    from .ranks import open_ranks
    from .report import conclude

    device = run.node("model", TrainModelConfig).device
    with open_ranks(device) as ranks, open_session(config, run, ranks) as session:
        try:
            session.run()
        finally:
            conclude(session, run, ranks)
