"""Blocks: documents packed into sequences of one length, with labels that are shifted already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fivefold import UserError
from jaxtyping import Int
from torch import Tensor

from .tokens import Tokens

IGNORED = -100
"""The label that counts for nothing."""


@dataclass(frozen=True)
class Batch:
    """Rows of one length, on the CPU."""

    input_ids: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    """Shifted: the label of a token is the token after it, or -100."""
    position_ids: Int[Tensor, "batch token"] | None = None
    """Positions within documents, where documents are kept apart."""

    @property
    def num_labels(self) -> int:
        """Labels that count."""
        return int((self.labels != IGNORED).sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self.input_ids.numel()

    def blank(self) -> Batch:
        """Return the same rows with nothing to learn."""
        return Batch(self.input_ids, torch.full_like(self.labels, IGNORED), self.position_ids)

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """Return the keywords of the model's call, on its device."""
        labels = self.labels.to(device, non_blocking=True)
        found = {
            "input_ids": self.input_ids.to(device, non_blocking=True),
            "labels": labels,
            "shift_labels": labels,
        }
        if self.position_ids is not None:
            found["position_ids"] = self.position_ids.to(device, non_blocking=True)
        return found


class Blocks:
    """Every block that has something to learn.

    Block b holds the tokens [b·S, (b+1)·S); the label of its last token is the first token of the
    next block, so that no prediction is lost at the seams. Tokens past the last whole block are
    left out.
    """

    def __init__(
        self, tokens: Tokens, seq_len: int, mask_documents: bool = False, setting: str = "data.name"
    ) -> None:
        """Pack tokens.

        Args:
            tokens: documents, one after the other.
            seq_len: tokens of a block.
            mask_documents: documents are kept apart: positions begin anew in each, the end of one
                does not predict the beginning of the next.
            setting: what names the data, for errors.

        Raises:
            UserError: there are too few tokens for one block, or none is to be learnt.
        """
        self.tokens, self.seq_len, self.mask_documents = tokens, seq_len, mask_documents
        count = (len(tokens) - 1) // seq_len
        if count < 1:
            raise UserError(
                f"{len(tokens)} tokens of data fill no block",
                setting="seq_len",
                value=seq_len,
                remedy=f"give more data ({setting}), or seq_len={max(2, len(tokens) - 1)} or less",
            )
        counts = self._labels(0, count * seq_len).view(count, seq_len).ne(IGNORED).sum(1)
        self.kept = torch.nonzero(counts).flatten()
        self.num_labels: list[int] = counts[self.kept].tolist()
        if not self.num_labels:
            raise UserError(
                "no token of the data is to be learnt: every label is ignored",
                setting=setting,
                remedy="conversations need turns of the assistant, or set data.loss_on=all",
            )

    def __len__(self) -> int:
        """Blocks that have something to learn."""
        return len(self.num_labels)

    def batch(self, blocks: Sequence[int]) -> Batch:
        """Return blocks as the rows of a batch."""
        firsts = self.kept[list(blocks)] * self.seq_len
        rows = [slice(first, first + self.seq_len) for first in firsts.tolist()]
        return Batch(
            torch.stack([self.tokens.ids[row] for row in rows]).long(),
            torch.stack([self._labels(row.start, row.stop) for row in rows]),
            torch.stack([self._positions(row) for row in rows]) if self.mask_documents else None,
        )

    def fingerprint(self) -> str:
        """Hash the tokens and how they are packed: the same for the same blocks."""
        digest = hashlib.sha256(f"{self.seq_len} {self.mask_documents}".encode())
        for part in (self.tokens.ids, self.tokens.is_learnt, self.tokens.starts):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _labels(self, first: int, last: int) -> Int[Tensor, " token"]:
        after = slice(first + 1, last + 1)
        is_learnt = self.tokens.is_learnt[after]
        if self.mask_documents:
            is_learnt = is_learnt & ~self.tokens.starts[after]
        return torch.where(is_learnt, self.tokens.ids[after], IGNORED).long()

    def _positions(self, row: slice) -> Int[Tensor, " token"]:
        places = torch.arange(self.seq_len)
        begins = torch.where(self.tokens.starts[row], places, 0)
        return places - begins.cummax(0).values


def held_out(count: int, share: float) -> tuple[list[int], list[int]]:
    """Split blocks into those to train on and those held out, spread evenly.

    Args:
        count: blocks.
        share: of them to hold out; at least one is, and one is left, if there are two.
    """
    wanted = min(count - 1, max(1, round(count * share))) if share and count > 1 else 0
    out = {int((index + 0.5) * count / wanted) for index in range(wanted)}
    return [block for block in range(count) if block not in out], sorted(out)
