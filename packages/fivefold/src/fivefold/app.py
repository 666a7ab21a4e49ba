"""A task under Hydra: run it, sweep over it, or show how it is composed."""

import sys
from argparse import ArgumentError, Namespace
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar, cast

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from .again import same_again
from .composing import Composer, composing
from .description import Task
from .ending import DONE, Outcome, conclude, run_composed
from .errors import UserError, one_line
from .job import Job
from .logs import logging_restored
from .override import Override
from .plugins import Plugins
from .refusals import refusing
from .result import Result
from .rewriting import Rewritten
from .secret import is_secret, secrets_in
from .shim import CommandLine
from .tables import table_text

T = TypeVar("T")


def run_app(task: Task, plugins: Plugins, line: CommandLine) -> int:
    """Do what the command line asks of a task; return the exit status.

    Raises:
        UserError: when the overrides or the run folder are refused.
    """
    flags = _flags(line.flags)
    folders = (flags.config_dir,) if flags.config_dir else ()
    with logging_restored(), composing(task, plugins, folders) as composer:
        rewritten = composer.rewrite(line.overrides, is_sweep=line.is_sweep)
        with refusing(rewritten.schema, rewritten.written):
            if flags.cfg:
                return _show_config(composer, rewritten, flags)
            if flags.info:
                return _show_info(composer, rewritten, flags.info)
            if not task.leaves_folder:
                if line.is_sweep:
                    raise UserError(f"`fivefold {task.name}` cannot be swept over", setting="-m")
                return _run_without_folder(composer, rewritten)
            return _run_in_folder(composer, rewritten, line)


def _flags(words: list[str]) -> Namespace:
    """Parse Hydra's flags with Hydra's parser, whose refusals are the user's to mend."""
    parser = get_args_parser()
    try:
        parser.exit_on_error = False
        return parser.parse_args(words)
    except ArgumentError as error:
        raise UserError(str(error), remedy="see `fivefold --hydra-help`") from error


def _show_config(composer: Composer, rewritten: Rewritten, flags: Namespace) -> int:
    """Print the configuration, and above it the command, which alone says what was chosen."""
    hydra, name, lines = composer.hydra, composer.config_name, rewritten.lines
    with redirect_stdout(StringIO()) as sheet:
        hydra.show_cfg(name, lines, flags.cfg, flags.package, flags.resolve)
    if flags.cfg != "hydra" and flags.package is None:
        command = same_again(composer.task, composer.choices(lines), rewritten.words)
        sys.stdout.write(f"# {command}\n")
    sys.stdout.write(sheet.getvalue())
    return DONE


def _show_info(composer: Composer, rewritten: Rewritten, topic: str) -> int:
    """Print what Hydra logs of the composition: a log handler complains of each closed pipe."""
    sheet = StringIO()
    try:
        with redirect_stdout(sheet):
            composer.hydra.show_info(topic, composer.config_name, rewritten.lines)
    finally:
        sys.stdout.write(sheet.getvalue())
    return DONE


def _run_without_folder(composer: Composer, rewritten: Rewritten) -> int:
    composition = composer.compose_lines(rewritten)
    plugins = composer.plugins
    outcome = conclude(
        composer.task.name,
        lambda result: run_composed(composition, plugins, result, None),
        debug=composition.debug,
    )
    return outcome.exit_status


def _run_in_folder(composer: Composer, rewritten: Rewritten, line: CommandLine) -> int:
    job = Job(composer.task.name, rewritten.written)
    lines = rewritten.lines
    name = composer.config_name
    if line.is_sweep or _is_multirun(composer, lines):
        return _sweep(composer, job, [*lines, "hydra.mode=MULTIRUN"])
    run = composer.hydra.run
    returned = _in_folder(lambda: run(name, job, lines), "hydra.run.dir")
    outcome: Outcome = returned.return_value
    return outcome.exit_status


def _is_multirun(composer: Composer, lines: list[str]) -> bool:
    """Whether an override or a composed file makes this a sweep."""
    if not any(line.startswith(("+", "hydra.mode=")) for line in lines):
        return False
    mode = composer.hydra.get_mode(composer.config_name, lines)
    return mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)  # a word where it comes from a file


def _sweep(composer: Composer, job: Job, lines: list[str]) -> int:
    """Run a sweep and end with one table; its exit status is the worst of its jobs'."""
    _refuse_secrets(composer, lines)
    hydra, name = composer.hydra, composer.config_name
    returned: Any = None
    try:
        returned = _in_folder(lambda: hydra.multirun(name, job, lines), "hydra.sweep.dir")
    finally:
        outcomes = job.outcomes or _outcomes(returned)
        if outcomes:
            _summarize(job.task_name, outcomes)
    return max((outcome.exit_status for outcome in outcomes), default=DONE)


def _refuse_secrets(composer: Composer, lines: list[str]) -> None:
    """Refuse a secret in overrides or files: Hydra logs the former, and writes both down."""
    keys = [Override.read(line).key for line in lines]
    found = next(filter(is_secret, keys), None)
    if found is None:
        cfg = composer.hydra.compose_config(composer.config_name, lines, RunMode.MULTIRUN)
        found = next(secrets_in(cast("dict[str, Any]", OmegaConf.to_container(cfg))), None)
    if found is not None:
        raise UserError(
            "a sweep would write this into its folder",
            setting=found,
            remedy="set it in the environment, as HF_TOKEN for the Hugging Face hub",
        )


def _summarize(task_name: str, outcomes: list[Outcome]) -> None:
    """Print a line a job, and leave all of each in the sweep's own `result.json`."""
    rows: list[dict[str, object]] = [
        {
            "job": number,
            "overrides": one_line(" ".join(outcome.overrides)),
            "status": outcome.status,
            **outcome.figures,
        }
        for number, outcome in enumerate(outcomes)
    ]
    statuses = {outcome.status for outcome in outcomes}
    status = statuses.pop() if len(statuses) == 1 else "partial"
    Result(task_name, status, rows=rows).write(Path(outcomes[0].sweep_folder))
    title = f"fivefold {task_name}: {len(rows)} {'job' if len(rows) == 1 else 'jobs'}"
    differing = _differing(outcomes)
    shown = [{**row, "overrides": text} for row, text in zip(rows, differing, strict=True)]
    with suppress(BrokenPipeError):
        is_terminal = sys.stdout.isatty()
        sys.stdout.write(table_text(title, shown, is_terminal=is_terminal))
        means = _over_seeds(outcomes, differing)
        if means:
            sys.stdout.write(table_text("means over seeds", means, is_terminal=is_terminal))
        sys.stdout.flush()


def _over_seeds(outcomes: list[Outcome], differing: list[str]) -> list[dict[str, object]]:
    """Return the mean figures of jobs that differ in their seed alone; nothing where none do."""
    together: dict[str, list[Outcome]] = {}
    for outcome, text in zip(outcomes, differing, strict=True):
        words = [word for word in text.split() if not word.startswith("seed=")]
        together.setdefault(" ".join(words), []).append(outcome)
    if len(together) == len(outcomes):
        return []
    means: list[dict[str, object]] = []
    for text, jobs in together.items():
        row: dict[str, object] = {"overrides": text, "jobs": len(jobs)}
        for name in dict.fromkeys(name for job in jobs for name in job.figures):
            given = [value for job in jobs if (value := job.figures.get(name)) is not None]
            row[name] = fmean(given) if given else None
        means.append(row)
    return means


def _differing(outcomes: list[Outcome]) -> list[str]:
    """Return the overrides that tell each job from the others; of a single job, all."""
    everywhere = set[str]()
    if len(outcomes) > 1:
        everywhere = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    return [
        one_line(" ".join(word for word in outcome.overrides if word not in everywhere))
        for outcome in outcomes
    ]


def _outcomes(returned: Any) -> list[Outcome]:
    """Return the outcomes that a launcher brought back from other processes."""
    if isinstance(returned, JobReturn):
        value = returned.return_value
        return [value] if isinstance(value, Outcome) else []
    if isinstance(returned, list | tuple):
        return [outcome for item in returned for outcome in _outcomes(item)]
    return []


def _in_folder(act: Callable[[], T], setting: str) -> T:
    """Call Hydra, whose own `OSError`s are about the folder that it makes, and the log in it.

    Those of a job never come here: a job says how it ended and raises nothing.
    """
    try:
        return act()
    except HydraException:  # a missing file of configuration is an OSError too
        raise
    except OSError as error:
        raise _unwritable(error, setting) from error
    except ValueError as error:  # `logging.config`, of a log file that it could not open
        if not isinstance(error.__cause__, OSError):
            raise
        raise _unwritable(error.__cause__, setting) from error


def _unwritable(error: OSError, setting: str) -> UserError:
    return UserError(
        f"the run folder cannot be written: {error.strerror or error}",
        setting=setting,
        value=error.filename or "",
        remedy=f"choose another with {setting}=DIR",
    )
