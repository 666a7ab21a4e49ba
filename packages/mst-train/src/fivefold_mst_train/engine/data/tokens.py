"""Tokens of documents, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from fivefold import UserError
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config import LossOn
from .documents import Document


@dataclass(frozen=True)
class Tokens:
    """Documents one after the other."""

    ids: Int[Tensor, " token"]
    """Token ids, int32."""
    is_learnt: Bool[Tensor, " token"]
    """Whether the prediction of this token counts."""
    starts: Bool[Tensor, " token"]
    """Whether a document begins here."""

    @classmethod
    def of(cls, parts: Iterable[tuple[list[int], list[bool]]]) -> Tokens:
        """Put encoded documents one after the other; empty ones are left out."""
        ids, learnt, starts = [], [], []
        for tokens, is_learnt in parts:
            if tokens:
                ids.append(torch.tensor(tokens, dtype=torch.int32))
                learnt.append(torch.tensor(is_learnt))
                starts.append(torch.zeros(len(tokens), dtype=torch.bool))
                starts[-1][0] = True
        empty = torch.zeros(0, dtype=torch.bool)
        return cls(
            torch.cat(ids) if ids else empty.int(),
            torch.cat(learnt) if learnt else empty,
            torch.cat(starts) if starts else empty,
        )

    def __len__(self) -> int:
        """Tokens of all documents."""
        return int(self.ids.numel())


def encode(
    found: Iterable[Document], tokenizer: PreTrainedTokenizerBase, loss_on: LossOn
) -> Tokens:
    """Turn documents into tokens; each ends with the tokenizer's end of text, where it has one.

    Args:
        found: the documents.
        tokenizer: the model's own.
        loss_on: which tokens of a conversation are learnt; of a text all are.

    Raises:
        UserError: a conversation and no chat template, or one that refuses it.
    """
    return Tokens.of(
        _conversation(each, tokenizer, loss_on) if each.messages else _text(each, tokenizer)
        for each in found
    )


def check_vocabulary(tokens: Tokens, vocab_size: int) -> None:
    """Refuse tokens that the model has no output for.

    Raises:
        UserError: tokenizer and model do not belong together.
    """
    largest = int(tokens.ids.max()) if len(tokens) else 0
    if largest >= vocab_size:
        raise UserError(
            f"token {largest} is out of the model's vocabulary of {vocab_size}",
            setting="model.name",
            remedy="tokenizer and weights do not belong together; fetch the model again",
        )


def _text(document: Document, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if not document.text:
        return [], []
    ids: list[int] = tokenizer(document.text, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids.append(end)
    return ids, [True] * len(ids)


def _conversation(
    document: Document, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn
) -> tuple[list[int], list[bool]]:
    """Encode a conversation as the chat template writes it.

    What the assistant says runs from where the template would let it begin to where the next turn
    begins, so that it learns to end its turn.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the data are conversations and this model has no chat template",
            setting="model.chat_template",
            remedy="give one (Jinja text or a file)",
        )
    messages = list(document.messages)
    text = _written(messages, tokenizer, document.place)
    found: Any = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids: list[int] = found["input_ids"]
    if loss_on is LossOn.ALL:
        return ids, [True] * len(ids)
    is_learnt = [False] * len(ids)
    for begin, end in _answers(messages, text, tokenizer, document.place):
        for place, (first, last) in enumerate(found["offset_mapping"]):
            is_learnt[place] |= begin <= first and last <= end and first < last
    return ids, is_learnt


def _answers(
    messages: list[Any], text: str, tokenizer: PreTrainedTokenizerBase, place: str
) -> list[tuple[int, int]]:
    """Return where each answer begins and ends in a written conversation, in characters."""
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _written(messages[:turn], tokenizer, place, is_open=True) if turn else ""
        after = _written(messages[: turn + 1], tokenizer, place)
        if not (text.startswith(after) and after.startswith(before)):
            raise UserError(
                "the chat template writes earlier turns otherwise once others follow",
                setting="data.loss_on",
                value=LossOn.ANSWERS,
                remedy="set data.loss_on=all",
            )
        spans.append((len(before), len(after)))
    return spans


def _written(
    messages: list[Any], tokenizer: PreTrainedTokenizerBase, place: str, is_open: bool = False
) -> str:
    try:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=is_open
        )
    except Exception as error:  # a template is a program of somebody else's
        raise UserError(
            f"the chat template refuses {place}: {error}",
            setting="data.name",
            remedy="give messages of role and content as the model expects them",
        ) from error
    return str(text)
