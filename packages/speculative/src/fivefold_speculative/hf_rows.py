"""The texts of a padded batch as `generate` sees them: prompts, new tokens, columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fivefold import UserError
from jaxtyping import Int
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.streamers import BaseStreamer

from .engine import Batch
from .outcome import StepOutcome
from .record import Request


class PaddedRows:
    """The texts as `generate` sees them: left padding, prompt and new tokens."""

    def __init__(
        self,
        input_ids: Int[Tensor, "batch token"],
        prompts: list[list[int]],
        eos: frozenset[int],
        criteria: StoppingCriteriaList,
    ) -> None:
        self.input_ids = input_ids
        self.prompts = prompts
        self.eos = eos
        self.criteria = criteria
        self.new: list[list[int]] = [[] for _ in prompts]
        self.ends: list[int | None] = [None for _ in prompts]

    @classmethod
    def of(
        cls,
        input_ids: Int[Tensor, "batch token"],
        mask: Int[Tensor, "batch token"] | None,
        criteria: StoppingCriteriaList,
    ) -> PaddedRows:
        """Take the padding off, and the criteria apart that need a look at every token."""
        seen = torch.ones_like(input_ids) if mask is None else mask.to(input_ids.device)
        if bool((seen.diff(dim=1) < 0).any()):
            raise UserError(
                "prompts are padded on the right, or have holes",
                setting="attention_mask",
                remedy="set tokenizer.padding_side='left'",
            )
        prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, seen, strict=True)]
        ends = [item for item in criteria if isinstance(item, EosTokenCriteria)]
        eos = frozenset(token for item in ends for token in item.eos_token_id.tolist())
        known = (EosTokenCriteria, MaxLengthCriteria)
        others = StoppingCriteriaList(item for item in criteria if not isinstance(item, known))
        return cls(input_ids, prompts, eos, others)

    @property
    def has_eos(self) -> bool:
        """Whether rows end one by one; without an end token, stock goes on until all have met."""
        return bool(self.eos)

    def requests(self, max_length: int) -> list[Request]:
        """Return the requests; `max_length` counts the padding, as in stock."""
        room = max_length - self.input_ids.shape[1]
        return [
            Request(tokens=prompt, max_new_tokens=room, key=key)
            for key, prompt in enumerate(self.prompts)
        ]

    def follow(self, batch: Batch) -> Iterator[StepOutcome]:
        """Decode; end rows where a criterion is met, and stop when all have ended."""
        for outcome in batch.steps():
            for row, tokens in enumerate(outcome.new_tokens):
                self._take(row, tokens)
                if self.has_eos and self.ends[row] is not None:
                    batch.session.rows[row].end("stop")
            yield outcome
            if self._done():
                return

    def _take(self, row: int, tokens: Sequence[int]) -> None:
        if self.has_eos and self.ends[row] is not None:
            return
        for token in tokens:
            self.new[row].append(token)
            if self.ends[row] is None and (token in self.eos or self._met(row)):
                self.ends[row] = len(self.new[row])
                if self.has_eos:
                    return

    def _met(self, row: int) -> bool:
        if not self.criteria:
            return False
        tail = self.input_ids.new_tensor(self.new[row])
        text = torch.cat([self.input_ids[row], tail])[None]
        return bool(self.criteria(text, None).all())

    def _done(self) -> bool:
        if any(end is None for end in self.ends):
            return False
        return self.has_eos or all(len(new) >= self.width for new in self.new)

    @property
    def width(self) -> int:
        """New columns: the longest row's, up to where stock would have stopped."""
        if all(end is not None for end in self.ends):
            return max(end or 0 for end in self.ends)
        return max(len(new) for new in self.new)

    def column(self, place: int, pad: int) -> Int[Tensor, " batch"]:
        """Return one new token of every row, padding where a row has ended."""
        tokens = [new[place] if place < len(new) else pad for new in self.new]
        return self.input_ids.new_tensor(tokens)

    def num_certain(self) -> int:
        """Return how many new columns can no longer change."""
        going = [len(new) for new, end in zip(self.new, self.ends, strict=True) if end is None]
        return min([self.width, *going])

    def sequences(self, pad: int) -> Int[Tensor, "batch text"]:
        """Return prompts and new tokens, rows padded to one length."""
        columns = [self.column(place, pad) for place in range(self.width)]
        return torch.cat([self.input_ids, *[column[:, None] for column in columns]], dim=1)


class Columns:
    """A streamer is given a column as soon as every row has it, as stock does."""

    def __init__(self, streamer: BaseStreamer | None, rows: PaddedRows, pad: int) -> None:
        self._streamer: Any = streamer
        self._rows, self._pad = rows, pad
        self._given = 0

    def give(self, tokens: Tensor) -> None:
        """Give some tokens of every row."""
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())

    def put(self) -> None:
        """Give what has become certain."""
        self._give_until(self._rows.num_certain())

    def end(self) -> None:
        """Give the rest, and end."""
        self._give_until(self._rows.width)
        if self._streamer is not None:
            self._streamer.end()

    def _give_until(self, width: int) -> None:
        for place in range(self._given, width):
            self.give(self._rows.column(place, self._pad))
        self._given = max(self._given, width)
