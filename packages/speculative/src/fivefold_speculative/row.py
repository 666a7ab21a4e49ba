"""One row of a batch on the host: commits tokens until EOS, a stop string or a limit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fivefold_lm import TextStream

from .outcome import TokenLogprob
from .record import Record, Request


@dataclass
class Report:
    """What one step brought to the host for one row.

    Args:
        tokens: the tokens emitted, none if the row had stopped.
        drafted: nodes proposed, the root not counted.
        logprobs: one a token, if they are recorded.
    """

    tokens: list[int]
    drafted: int
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass
class Taken:
    """What a row keeps of a step: tokens, certain text, and why the row ended, if it did."""

    tokens: list[int]
    text: str
    finished: str | None


class Row:
    """The tokens of one request, prompt first, and its answer.

    Args:
        request: what is asked for.
        eos: tokens that end an answer.
        limit: most tokens, prompt included.
        stream: turns tokens into text; `None`: no text.
    """

    def __init__(
        self, request: Request, eos: Collection[int], limit: int, stream: TextStream | None
    ) -> None:
        self.request = request
        self.tokens = list(request.tokens)
        self.record = Record(request.id, len(self.tokens))
        self._eos = eos
        self._limit = limit
        self._text = None if stream is None else _StopText(stream, request.stop)

    @property
    def left(self) -> int:
        """The most tokens it may still commit; 0 once it has ended."""
        if self.record.finish_reason:
            return 0
        new = self.request.max_new_tokens - len(self.record.tokens)
        return min(new, self._limit - len(self.tokens))

    def take(self, report: Report, cancelled: bool) -> Taken:
        """Commit the tokens of a step up to the first that ends the answer."""
        record = self.record
        if record.finish_reason or not report.tokens:
            return Taken([], "", None)
        kept, text = 0, ""
        for token in report.tokens:
            kept += 1
            piece, reason = self._commit(token)
            text += piece
            record.text += piece  # at once: Ctrl-C may come before the next token
            if reason:
                break
        reason = reason or ("cancelled" if cancelled else "")
        record.logprobs += report.logprobs[:kept]
        record.count_step(kept, report.drafted)
        if reason:
            text += self.end(reason)
        return Taken(report.tokens[:kept], text, reason or None)

    def end(self, reason: str) -> str:
        """Say why the answer ended; return the text that was held back until now."""
        self.record.finish_reason = reason
        rest = self._text.flush() if self._text and reason != "stop" else ""
        self.record.text += rest
        return rest

    def _commit(self, token: int) -> tuple[str, str]:
        """Append one token; return its text and why the answer ends with it, or nothing."""
        self.tokens.append(token)
        self.record.tokens.append(token)
        if token in self._eos:
            return "", "eos"
        text, stopped = self._text.push(token) if self._text else ("", False)
        if stopped:
            return text, "stop"
        if len(self.record.tokens) >= self.request.max_new_tokens:
            return text, "length"
        return text, "context" if len(self.tokens) >= self._limit else ""


class _StopText:
    """Certain text of an answer: what can still become a stop string is held back.

    Args:
        stream: turns new tokens into text that will not change.
        stop: strings that end the answer; they are not part of it.
    """

    def __init__(self, stream: TextStream, stop: tuple[str, ...]) -> None:
        self._stream, self._stop = stream, stop
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; return the text that is now certain, and whether the answer ends."""
        return self._release(self._stream.push([token]))

    def flush(self) -> str:
        """Return what was held back, the answer having ended for another reason."""
        text, stopped = self._release(self._stream.flush())
        return text if stopped else text + self._held

    def _release(self, text: str) -> tuple[str, bool]:
        text = self._held + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
