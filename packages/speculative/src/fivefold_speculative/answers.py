"""From prompts to answers, batch by batch; a finished answer is given out at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fivefold import UserError

from .engine import Batch, Engine
from .prompt_sets import Message, Prompt
from .record import Record, Request


@dataclass(frozen=True)
class Answer:
    """One finished text.

    Args:
        id: the prompt's name.
        sample: number of the answer to this prompt, from 0.
        prompt: the text or the messages answered.
        record: tokens, text and figures.
    """

    id: str
    sample: int
    prompt: str | list[Message]
    record: Record

    @property
    def text(self) -> str:
        """The text, without end-of-text token and stop string."""
        return self.record.text

    @property
    def token_ids(self) -> list[int]:
        """The new tokens, the end-of-text token included."""
        return self.record.tokens

    @property
    def finish_reason(self) -> str:
        """`eos`, `stop`, `length` (`max_new_tokens`), `context` or `cancelled`."""
        return self.record.finish_reason

    @property
    def mean_acceptance_length(self) -> float:
        """New tokens a pass of the target."""
        return self.record.mean_acceptance_length

    def row(self) -> dict[str, object]:
        """Return the record that `result.json` and the output file hold."""
        about = "prompt" if isinstance(self.prompt, str) else "messages"
        row: dict[str, object] = {
            "id": self.id,
            "sample": self.sample,
            about: self.prompt,
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            **self.record.metrics(),
        }
        if self.record.logprobs:
            row["logprobs"] = [entry._asdict() for entry in self.record.logprobs]
        return row


@dataclass(frozen=True)
class Piece:
    """Text that one answer has gained.

    Args:
        index: the job's.
        text: what is new.
    """

    index: int
    text: str


class Job(NamedTuple):
    """One answer to write."""

    prompt: Prompt
    sample: int
    request: Request


def make_jobs(
    engine: Engine,
    prompt: Prompt,
    *,
    first_key: int,
    num_samples: int = 1,
    max_new_tokens: int = 128,
    stop: Sequence[str] = (),
    chat: str = "auto",
) -> list[Job]:
    """Encode a prompt, once for each answer wanted.

    Args:
        engine: the model that will read it.
        prompt: what to answer.
        first_key: number of its first answer in the random stream.
        num_samples: answers wanted.
        max_new_tokens: most tokens an answer may have.
        stop: texts that end it.
        chat: whether a plain prompt is put into the chat template: `auto`, `always`, `never`.

    Raises:
        UserError: the prompt is empty, too long, or has no template.
    """
    tokens = engine.model.encode(prompt.content, chat)
    requests = [
        Request(
            tokens=tokens,
            max_new_tokens=max_new_tokens,
            stop=tuple(stop),
            id=prompt.id,
            key=first_key + sample,
        )
        for sample in range(num_samples)
    ]
    engine.check(requests[0])
    return [Job(prompt, sample, request) for sample, request in enumerate(requests)]


def answer(
    engine: Engine,
    jobs: Sequence[Job],
    *,
    batch_size: int = 1,
    logprobs: int = -1,
    on_error: Callable[[UserError, Sequence[Job]], None] | None = None,
    on_cut: Callable[[Answer], None] | None = None,
) -> Generator[Piece | Answer, None, None]:
    """Write answers.

    Args:
        engine: model and methods.
        jobs: what to write, in order.
        batch_size: answers written at the same time.
        logprobs: alternatives recorded beside each token's own; negative: none of it.
        on_error: told which answers of a batch could not be finished, and why; the other batches
            go on. By default the error is raised.
        on_cut: told what an answer holds that is interrupted, or given up by closing the iterator.

    Yields:
        Pieces of text as they become certain, and each answer once it is finished; the index of a
        piece is that of its job.
    """
    for start in range(0, len(jobs), batch_size):
        group = jobs[start : start + batch_size]
        over: list[int] = []
        batch: Batch | None = None
        try:
            batch = engine.batch([job.request for job in group], logprobs=logprobs)
            yield from _answer_batch(batch, group, start, over)
        except (KeyboardInterrupt, GeneratorExit):
            if on_cut is not None:
                for cut in _cut_answers(batch, group, over):
                    on_cut(cut)
            raise
        except UserError as error:
            if on_error is None:
                raise
            on_error(error, [job for row, job in enumerate(group) if row not in over])


def _answer_batch(
    batch: Batch, jobs: Sequence[Job], start: int, over: list[int]
) -> Generator[Piece | Answer, None, None]:
    for outcome in batch.steps():
        for row, (text, finished) in enumerate(zip(outcome.text, outcome.finished, strict=True)):
            if text:
                yield Piece(start + row, text)
            if finished:
                over.append(row)
                yield _answer_of(jobs[row], batch.session.records[row])


def _cut_answers(batch: Batch | None, jobs: Sequence[Job], over: list[int]) -> Iterator[Answer]:
    """Yield what the rows of a batch hold that are not over, if they hold anything."""
    if batch is None:
        return
    batch.session.close()
    for row, record in enumerate(batch.session.records):
        if record.tokens and row not in over:
            yield _answer_of(jobs[row], record)


def _answer_of(job: Job, record: Record) -> Answer:
    return Answer(job.prompt.id, job.sample, job.prompt.content, record)


def failure(prompt_id: str, error: UserError | str) -> dict[str, object]:
    """Return the record of a prompt that could not be answered."""
    return {"id": prompt_id, "error": str(error)}
