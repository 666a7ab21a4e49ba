"""A conversation: messages, and the KV cache that holds what both sides have said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ._counted import counted
from .engine import Batch, Engine
from .prompt_sets import Message
from .record import Record, Request


@dataclass(frozen=True)
class Turn:
    """One answer and what it cost.

    Args:
        prompt: what the user said.
        record: tokens, text and figures of the answer.
        num_kept: tokens of the conversation that the cache already held.
        num_prefilled: tokens of it that had to be read, the last one included.
        seconds: from the message to the last token.
    """

    prompt: str
    record: Record
    num_kept: int
    num_prefilled: int
    seconds: float

    @property
    def token_ids(self) -> list[int]:
        """The new tokens."""
        return self.record.tokens

    def __str__(self) -> str:
        rate = len(self.token_ids) / self.seconds if self.seconds else 0.0
        return (
            f"{counted(len(self.token_ids), 'token')}, {rate:.1f} tokens/s, "
            f"{self.record.mean_acceptance_length:.2f} tokens a pass; "
            f"{counted(self.num_prefilled, 'token')} read, {self.num_kept} kept "
            f"({self.record.finish_reason})"
        )

    def row(self) -> dict[str, object]:
        """Return what `result.json` holds of the turn."""
        return {
            "prompt": self.prompt,
            "text": self.record.text,
            "token_ids": self.token_ids,
            "finish_reason": self.record.finish_reason,
            "num_kept_tokens": self.num_kept,
            "num_prefilled_tokens": self.num_prefilled,
            **self.record.metrics(),
        }


class Conversation:
    """Messages in turn; only what is new in them is read by the model.

    The whole conversation is put into the chat template each time, and what its tokens share with
    those in the cache stays there: templates that rewrite earlier turns are read again from the
    first difference on.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str = "",
        max_new_tokens: int = 512,
        stop: Sequence[str] = (),
    ) -> None:
        """Begin a conversation.

        Args:
            engine: model and methods.
            system: system message; empty: none of ours.
            max_new_tokens: most tokens of an answer.
            stop: texts that end an answer.
        """
        self._engine = engine
        self._system = system
        self._max_new_tokens = max_new_tokens
        self._stop = tuple(stop)
        self.last: Turn | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything that was said."""
        self.messages: list[Message] = []
        if self._system:
            self.messages.append({"role": "system", "content": self._system})
        self._batch: Batch | None = None

    def answer(self, text: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Say something and stream the answer; both become part of the conversation.

        Args:
            text: what the user says.
            stopped: asked after every step; true ends the answer there.

        Yields:
            Pieces of the answer.

        Raises:
            UserError: the conversation does not fit the context; the message is not kept.
        """
        begin = time.perf_counter()
        messages = [*self.messages, {"role": "user", "content": text}]
        batch = self._ready(self._engine.model.encode(messages))
        session = batch.session
        kept = session.reused[0]
        num_prompt = len(session.tokens[0])
        try:
            for outcome in batch.steps():
                yield outcome.text[0]
                if stopped():
                    session.cancel()
        except BaseException:
            self._batch = None  # a step was cut in two: its cache cannot be trusted
            raise
        record = session.records[0]
        self.messages = [*messages, {"role": "assistant", "content": record.text}]
        seconds = time.perf_counter() - begin
        self.last = Turn(text, record, kept, num_prompt - kept, seconds)

    def _ready(self, tokens: list[int]) -> Batch:
        """Return the batch with the conversation as its prompt; a new one if there is none."""
        request = Request(tokens, self._max_new_tokens, self._stop)
        self._engine.check(request)
        if self._batch is None:
            self._batch = self._engine.batch([request])
        else:
            self._batch.session.extend([tokens], self._max_new_tokens)
        return self._batch
