"""What `fivefold generate` does with the prompts it has read: decode, stream or file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Protocol, runtime_checkable

from fivefold import Run, UserError

from ._counted import counted
from .answer_file import AnswerFile
from .answers import Answer, Job, Piece, answer, failure, make_jobs
from .engine import Engine, memory_errors
from .prompt_sets import BrokenLine, Prompt, holds_records
from .task_configs import GenerateConfig

Records = Callable[[Mapping[str, object]], None]
"""Takes a finished record."""


def answer_prompts(
    prompts: Sequence[Prompt | BrokenLine],
    config: GenerateConfig,
    run: Run,
    file: AnswerFile | None,
) -> None:
    """Answer for `fivefold generate`: decode, stream or file.

    A record of the input that cannot be answered is named and the others are: the run ends as
    `partial`, with status 2.

    Args:
        prompts: what was read.
        config: the task's settings.
        run: the run.
        file: where the answers go as records; `None`: to standard output.

    Raises:
        UserError: the model cannot be loaded, or the only prompt cannot be answered.
    """
    engine = Engine.of(run, config.rule)
    records = records_to(config, run, file)
    jobs = encode(engine, prompts, config, run, records)
    if records is not None:
        shown: Shown = _Listed(records)
    else:
        shown = _Streamed(run) if len(jobs) == 1 else _Headed(run, len(jobs))
    write(engine, jobs, config, run, shown, records)


def records_to(config: GenerateConfig, run: Run, file: AnswerFile | None) -> Records | None:
    """Return what takes a record: the file, else standard output; None: text is asked for."""
    if file is not None:
        return file.write
    if config.output or holds_records(config.input):
        return lambda record: run.print(json.dumps(record, ensure_ascii=False))
    return None


def encode(
    engine: Engine,
    prompts: Sequence[Prompt | BrokenLine],
    config: GenerateConfig,
    run: Run,
    records: Records | None,
) -> list[Job]:
    """Turn prompts into jobs; what cannot be answered is reported at once, the rest goes on.

    Raises:
        UserError: the only prompt cannot be answered.
    """
    jobs: list[Job] = []
    num_failed = 0
    for index, prompt in enumerate(prompts):
        try:
            jobs += _jobs_of(engine, prompt, index, config)
        except UserError as error:
            if len(prompts) == 1:
                raise
            num_failed += 1
            reason = str(prompt) if isinstance(prompt, BrokenLine) else str(error)
            report_failure(prompt.id, reason, error, run, records)
    run.figure("num_prompts", len(prompts))
    run.figure("num_failed", num_failed)
    return jobs


def report_failure(
    prompt_id: str, reason: str, error: UserError, run: Run, records: Records | None
) -> None:
    """Say that a prompt could not be answered.

    Args:
        prompt_id: the prompt's name.
        reason: what its record says.
        error: what the screen says.
        run: the run.
        records: takes the record beside `result.json`, where records are asked for.
    """
    record = failure(prompt_id, reason)
    run.fail(error)
    run.row(**record)
    if records is not None:
        records(record)


def _jobs_of(
    engine: Engine, prompt: Prompt | BrokenLine, index: int, config: GenerateConfig
) -> list[Job]:
    if isinstance(prompt, BrokenLine):
        remedy = "mend it; the other lines are answered"
        raise UserError(str(prompt), setting="input", value=config.input, remedy=remedy)
    return make_jobs(
        engine,
        prompt,
        first_key=index * config.num_samples,
        num_samples=config.num_samples,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        chat=config.chat,
    )


def write(
    engine: Engine,
    jobs: list[Job],
    config: GenerateConfig,
    run: Run,
    shown: Shown,
    records: Records | None,
) -> None:
    """Decode all jobs; every finished answer is shown, recorded and filed before the next.

    A batch that cannot be finished is reported, and the others are decoded. What an interrupted
    batch has written stands in `result.json` as `cancelled`; the file holds finished answers only.

    Raises:
        UserError: the only answer cannot be finished.
    """
    finished: list[Answer] = []
    _prepare(engine, jobs[: config.batch_size], is_all=len(jobs) == 1)
    begin = time.perf_counter()
    logprobs = -1 if config.logprobs is None else config.logprobs

    def unfinished(error: UserError, left: Sequence[Job]) -> None:
        if len(jobs) == 1:
            raise error
        for job in left:
            report_failure(job.prompt.id, str(error), error, run, records)

    events = answer(
        engine,
        jobs,
        batch_size=config.batch_size,
        logprobs=logprobs,
        on_error=unfinished,
        on_cut=lambda cut: run.row(**cut.row()),
    )
    try:
        with closing(events):
            for event in events:
                if isinstance(event, Piece):
                    shown.piece(event)
                    continue
                finished.append(event)
                run.row(**event.row())
                shown.answer(event)
    finally:
        shown.close()
        _report(finished, time.perf_counter() - begin, run)
        engine.report_streaming(run)


def _prepare(engine: Engine, jobs: Sequence[Job], is_all: bool) -> None:
    """Let drafts be read, measured and planned with before the clock starts.

    Raises:
        UserError: that cannot be, and there is nothing else to answer; else it is said when the
            batch is decoded.
    """
    try:
        with memory_errors():
            engine.drafting(engine.session([job.request for job in jobs], text=False))
    except UserError:
        if is_all:
            raise


def _report(answers: list[Answer], seconds: float, run: Run) -> None:
    tokens = sum(len(done.token_ids) for done in answers)
    passes = sum(done.record.num_spec_steps for done in answers)
    accepted = sum(done.record.num_accepted_draft_tokens for done in answers)
    drafted = sum(done.record.num_draft_tokens for done in answers)
    figures = {
        "num_answers": len(answers),
        "num_new_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if answers and seconds else None,
        "mean_acceptance_length": 1 + accepted / passes if passes else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
    }
    for name, value in figures.items():
        run.figure(name, value)
    if answers:
        ends = ", ".join(sorted({done.finish_reason for done in answers}))
        run.note(
            f"{counted(tokens, 'token')} in {seconds:.1f} s: {tokens / seconds:.1f} tokens/s, "
            f"{1 + accepted / max(passes, 1):.2f} tokens a pass ({ends})"
        )


@runtime_checkable
class Shown(Protocol):
    """How answers come to standard output, or into the file."""

    def piece(self, piece: Piece) -> None:
        """Take text that one answer has gained."""

    def answer(self, answer: Answer) -> None:
        """Take a finished answer."""

    def close(self) -> None:
        """End, also in the middle of an answer."""


class _Streamed:
    """One answer, as it is written."""

    def __init__(self, run: Run) -> None:
        self._run, self._has_begun = run, False

    def piece(self, piece: Piece) -> None:
        """Show text at once."""
        self._run.stream(piece.text)
        self._has_begun = True

    def answer(self, answer: Answer) -> None:
        """Everything is shown already; an empty answer is a line, too."""
        self._has_begun = True

    def close(self) -> None:
        """End the line, also of an answer that was cut short; nothing where none was begun."""
        if self._has_begun:
            self._run.stream("\n")


class _Headed:
    """Several answers to one prompt: each whole, under a heading."""

    def __init__(self, run: Run, count: int) -> None:
        self._run, self._count = run, count

    def piece(self, piece: Piece) -> None:
        """Wait for the whole answer."""

    def answer(self, answer: Answer) -> None:
        """Write the text under its number."""
        self._run.print(f"--- answer {answer.sample + 1} of {self._count}\n{answer.text}")

    def close(self) -> None:
        """Every line is ended already."""


class _Listed:
    """Many answers: a record each."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def piece(self, piece: Piece) -> None:
        """Wait for the whole answer."""

    def answer(self, answer: Answer) -> None:
        """Write one line."""
        self._records(answer.row())

    def close(self) -> None:
        """Every line is ended already."""
