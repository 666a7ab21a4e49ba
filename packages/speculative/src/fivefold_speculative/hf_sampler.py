"""A sampler whose law is what stock logits processors make of it, row by row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from fivefold import UserError
from fivefold_lm import History, Sampler, SamplingConfig
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

_STATEFUL = (
    "SynthIDTextWatermarkLogitsProcessor",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
)
_OF_THE_WHOLE_BATCH = (
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
)


class ProcessorSampler(Sampler):
    """Stock processors do everything; they see the padding on the left, as in stock `generate`.

    Rows have different lengths in the middle of a tree, so each is processed on its own, by a copy
    of those processors that know their row.
    """

    def __init__(
        self,
        config: SamplingConfig,
        processors: LogitsProcessorList,
        input_ids: Int[Tensor, "batch token"],
        vocab_size: int,
        draft_config: SamplingConfig | None = None,
    ) -> None:
        """Make a sampler for one batch.

        Args:
            config: temperature 0 or 1, and the seed.
            processors: as prepared by `generate`, temperature and truncation among them.
            input_ids: prompts, padded on the left.
            vocab_size: entries of the logits.
            draft_config: temperature and cuts for drafts, which no processor touches.

        Raises:
            UserError: a processor that keeps a state from step to step.
        """
        _check(processors, len(input_ids))
        super().__init__(config, processors, vocab_size=vocab_size)
        self._draft_config = draft_config or config
        self._prompts = input_ids.tolist()
        self._row_processors: list[Any] = [
            LogitsProcessorList(_for_row(processor, row) for processor in processors)
            for row in range(len(input_ids))
        ]

    @property
    def draft_config(self) -> SamplingConfig:
        """What `generate` was told, as far as a draft can follow it."""
        return self._draft_config

    def history(
        self, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> History | None:
        """Begin with the padded prompts."""
        return super().history(self._prompts, device)

    def scores(
        self, logits: Float[Tensor, "batch vocab"], history: History | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Return what the processors make of the logits."""
        if history is None or history.ids is None or history.lengths is None:
            return logits.float()
        rows = [
            process(history.ids[row : row + 1, :length], logits[row : row + 1].float())
            for row, (process, length) in enumerate(
                zip(self._row_processors, history.lengths.tolist(), strict=True)
            )
        ]
        return torch.cat(rows)


def _for_row(processor: LogitsProcessor, row: int) -> LogitsProcessor:
    """Return a processor that takes one row to be the one it stands for."""
    own = copy.copy(processor)
    if isinstance(own, RepetitionPenaltyLogitsProcessor):
        ignored = own.prompt_ignore_length
        if isinstance(ignored, Tensor):
            own.prompt_ignore_length = ignored[row : row + 1]
    if isinstance(own, PrefixConstrainedLogitsProcessor):
        allowed = own._prefix_allowed_tokens_fn
        own._prefix_allowed_tokens_fn = lambda _, text: allowed(row, text)
    return own


def _check(processors: LogitsProcessorList, batch: int) -> None:
    refused = _STATEFUL + (_OF_THE_WHOLE_BATCH if batch > 1 else ())
    for processor in processors:
        if type(processor).__name__ in refused:
            raise UserError(
                f"{type(processor).__name__} cannot look at the paths of a tree",
                setting="logits_processor",
                remedy="leave it out, or send prompts one by one",
            )
