"""`fivefold generate`: continue prompts, stream or file the answers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fivefold import Run, UserError

from .answer_file import AnswerFile
from .answers import Answer, Job, Piece, answer, failure, make_jobs
from .engine import Engine
from .prompt_sets import (
    BrokenLine,
    Prompt,
    holds_records,
    parse_records,
    parse_text,
    read_prompts,
)
from .task_configs import GenerateConfig


def run(config: GenerateConfig, run: Run) -> None:
    """Run `fivefold generate`: read, decode, stream or file.

    A record of the input that cannot be answered is named and the others are: the run ends as
    `partial`, with status 2.
    """
    prompts = prompts_of(config)
    with ExitStack() as stack:
        path = output_of(config)
        file = stack.enter_context(AnswerFile(path)) if path is not None else None
        engine = Engine.of(run, config.rule)
        jobs = encode(engine, prompts, config, run, file)
        is_streamed = len(jobs) == 1 and not config.output and not reads_records(config)
        shown = _Streamed(run) if is_streamed else _Listed(run, file)
        write(engine, jobs, config, run, shown, file)


def prompts_of(config: GenerateConfig) -> list[Prompt | BrokenLine]:
    """Read what is to be answered.

    Raises:
        UserError: nothing was given, or it cannot be read.
    """
    if config.input == "-":
        return parse_records(sys.stdin.buffer.read(), "-")
    if config.input:
        return read_prompts(Path(config.input))
    if config.prompt == "-":
        return [Prompt("1", parse_text(sys.stdin.buffer.read(), "prompt", "-"))]
    if not config.prompt.strip():
        raise UserError(
            "the prompt is empty",
            setting="prompt",
            value=config.prompt,
            remedy="give prompt=TEXT, prompt=- or input=FILE",
        )
    return [Prompt("1", config.prompt)]


def reads_records(config: GenerateConfig) -> bool:
    """Say whether the input is JSONL, which is answered in JSONL however many lines it has."""
    return holds_records(config.input)


def output_of(config: GenerateConfig) -> Path | None:
    """Return the file to write, which must not be the one that is read; `None`: no file."""
    if config.output in ("", "-"):
        return None
    path = Path(config.output)
    if config.input not in ("", "-") and path.exists() and path.samefile(config.input):
        raise UserError(
            "the answers would overwrite the prompts",
            setting="output",
            value=config.output,
            remedy="name another file",
        )
    return path


def encode(
    engine: Engine,
    prompts: list[Prompt | BrokenLine],
    config: GenerateConfig,
    run: Run,
    file: AnswerFile | None,
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
            report_failure(prompt.id, error, run, file)
    run.figure("num_prompts", len(prompts))
    run.figure("num_failed", num_failed)
    return jobs


def report_failure(prompt_id: str, error: UserError, run: Run, file: AnswerFile | None) -> None:
    """Say that a prompt could not be answered: on the screen, in `result.json`, in the file."""
    record = failure(prompt_id, error)
    run.fail(error)
    run.row(**record)
    if file is not None:
        file.write(record)


def _jobs_of(
    engine: Engine, prompt: Prompt | BrokenLine, index: int, config: GenerateConfig
) -> list[Job]:
    if isinstance(prompt, BrokenLine):
        raise UserError(
            str(prompt), setting="input", value=config.input, remedy="the other lines are answered"
        )
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
    shown: _Streamed | _Listed,
    file: AnswerFile | None,
) -> None:
    """Decode all jobs; every finished answer is shown, recorded and filed before the next.

    A batch that cannot be finished is reported, and the others are decoded.

    Raises:
        UserError: the only answer cannot be finished.
    """
    finished: list[Answer] = []
    begin = time.perf_counter()
    logprobs = -1 if config.logprobs is None else config.logprobs

    def unfinished(error: UserError, left: Sequence[Job]) -> None:
        if len(jobs) == 1:
            raise error
        for job in left:
            report_failure(job.prompt.id, error, run, file)

    events = answer(
        engine, jobs, batch_size=config.batch_size, logprobs=logprobs, on_error=unfinished
    )
    try:
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


def _report(answers: list[Answer], seconds: float, run: Run) -> None:
    tokens = sum(len(done.token_ids) for done in answers)
    passes = sum(done.record.num_spec_steps for done in answers)
    accepted = sum(done.record.num_accepted_draft_tokens for done in answers)
    drafted = sum(done.record.num_draft_tokens for done in answers)
    figures = {
        "num_answers": len(answers),
        "num_new_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "mean_acceptance_length": 1 + accepted / passes if passes else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
    }
    for name, value in figures.items():
        run.figure(name, value)
    if answers:
        ends = ", ".join(sorted({done.finish_reason for done in answers}))
        run.note(
            f"{tokens} tokens in {seconds:.1f} s: {tokens / seconds:.1f} tokens/s, "
            f"{1 + accepted / max(passes, 1):.2f} tokens a pass ({ends})"
        )


class _Streamed:
    """One answer, as it is written."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def piece(self, piece: Piece) -> None:
        """Show text at once."""
        self._run.stream(piece.text)

    def answer(self, answer: Answer) -> None:
        """Everything is shown already."""

    def close(self) -> None:
        """End the line, also of an answer that was cut short."""
        self._run.stream("\n")


class _Listed:
    """Many answers: JSONL into the file, else to standard output."""

    def __init__(self, run: Run, file: AnswerFile | None) -> None:
        self._run, self._file = run, file

    def piece(self, piece: Piece) -> None:
        """Wait for the whole answer."""

    def answer(self, answer: Answer) -> None:
        """Write one line."""
        if self._file is not None:
            self._file.write(answer.row())
        else:
            self._run.print(json.dumps(answer.row(), ensure_ascii=False))

    def close(self) -> None:
        """Every line is ended already."""
