"""Metrics: a bar on the terminal, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from fivefold import Run, UserError
from fivefold_lm.offload.sizes import in_units
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .config import When
from .loop import Report

FILE = "metrics.jsonl"
EVENTS = "tensorboard"
SECONDS_BETWEEN_LINES = 10.0
"""Where nobody watches a terminal, a line is written as often as this."""


@dataclass
class Peak:
    """Bytes above parameters, gradients and optimizer state; None where they are not known."""

    live: int | None = None
    """Most that was alive so far."""
    predicted: int | None = None
    """What was expected."""

    def __str__(self) -> str:
        """Return both as a person reads them."""
        live = "not measured" if self.live is None else in_units(self.live)
        if self.predicted is None:
            return f"peak {live}"
        return f"peak {live} of {in_units(self.predicted)} predicted"


class Metrics:
    """Where the numbers of a run go; a context that closes what it opened.

    Args:
        folder: of `metrics.jsonl` and TensorBoard's events.
        run: of the task; None: nothing is shown on the terminal.
        tensorboard: whether events are written.
        begin: steps taken before; lines of later steps are those of a run that was cut short, and
            are dropped.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, run: Run | None, tensorboard: When, begin: int) -> None:
        self.folder, self.run = folder, run
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(folder / FILE, begin)
            self._file = (folder / FILE).open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(
                f"metrics cannot be written ({error.strerror or error})",
                setting="output",
                value=folder,
                remedy="give output= a folder of your own",
            ) from error
        self._events = _writer(folder / EVENTS, begin) if _wanted(tensorboard) else None
        self._bar = _Bar(run) if run is not None else None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._bar is not None:
            self._bar.close()

    def step(self, report: Report, peak: Peak, done: float) -> None:
        """Take the numbers of one step.

        Args:
            report: of the loop.
            peak: memory so far.
            done: share of the run that is done.
        """
        values = {
            "loss": report.loss,
            "lr": report.lr,
            "grad_norm": report.grad_norm,
            "tokens": report.tokens,
            "seconds": report.seconds,
            "tokens_per_second": report.tokens_per_second,
            "peak_bytes": peak.live,
            "predicted_peak_bytes": peak.predicted,
        }
        self._write(report.step, "train", values)
        if self._bar is not None:
            self._bar.step(report, peak, done)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an evaluation after a step."""
        self._write(step, "eval", values)
        if self.run is not None:
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.note(f"step {step}: evaluation: {said}")

    def note(self, text: str) -> None:
        """Say something, above the bar if there is one."""
        if self._bar is not None:
            self._bar.note(text)

    def _write(self, step: int, kind: str, values: Mapping[str, float | int | None]) -> None:
        line = {"step": step, "kind": kind, **values}
        self._file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(f"{kind}/{name}", value, step)


class _Bar:
    """A bar where somebody watches stderr, else a line now and then."""

    def __init__(self, run: Run) -> None:
        self._run, self._said = run, -SECONDS_BETWEEN_LINES
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            text = TextColumn("{task.fields[said]}")
            console = Console(stderr=True)
            self._bar = Progress(BarColumn(), text, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("train", total=1.0, said="the first step")
            self._bar.start()

    def step(self, report: Report, peak: Peak, done: float) -> None:
        said = (
            f"step {report.step}  loss {report.loss:.4f}  "
            f"{report.tokens_per_second:,.0f} tokens/s  {peak}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, 1.0), said=said)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES or done >= 1:
            self._run.note(said)
            self._said = time.monotonic()

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._run.note(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _cut(path: Path, begin: int) -> None:
    """Drop the lines of steps that are taken again, and a line that was cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= begin:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    draft.replace(path)


def _wanted(tensorboard: When) -> bool:
    if tensorboard is When.AUTO:
        return find_spec("tensorboard") is not None
    return tensorboard is When.ALWAYS


def _writer(folder: Path, begin: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter
    return writer(str(folder), purge_step=begin + 1 if begin else None)
