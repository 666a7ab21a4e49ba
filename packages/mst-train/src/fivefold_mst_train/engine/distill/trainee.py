"""A student in training: its loss against the teacher's law, and how well it agrees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..data.blocks import IGNORED, Batch
from ..ranks import Ranks, without_sync
from .soft_loss import SLICE, divergence


class HiddenStates(nn.Module):
    """A model up to its last hidden states, as the module that processes train together."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = model.base_model

    def forward(
        self,
        input_ids: Int[Tensor, "batch token"],
        position_ids: Int[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token hidden"]:
        """Return the hidden states after the final norm."""
        output = self.decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden


@dataclass
class StudentTrainee:
    """A student that learns a teacher's law over some words."""

    student: nn.Module
    """`HiddenStates` of it, or the DDP module made of that."""
    rows: Tensor
    """Its output rows."""
    teacher: HiddenStates
    teacher_rows: Tensor
    words: Int[Tensor, " word"]
    """Ids of the words it can propose."""
    device: torch.device
    temperature: float = 1.0
    autocast: bool = False

    def __post_init__(self) -> None:
        """Cut out the rows that stay as they are, once."""
        self.words = self.words.to(self.device)
        self.taught_rows = self._cut(self.teacher_rows)
        self.kept_rows = None if self.rows.requires_grad else self._cut(self.rows)

    def loss(self, batch: Batch, num_labels: int, is_last: bool) -> Float[Tensor, ""]:
        """Return this process's part of the mean divergence of a step."""
        hidden, taught = self._states(batch, is_last)
        weights = torch.full((len(hidden),), 1.0 / num_labels, device=self.device)
        return divergence(hidden, self._rows(), taught, self.taught_rows, weights, self.temperature)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], ranks: Ranks) -> dict[str, float]:
        """Return the mean divergence, and how often the student's best word is the teacher's.

        The teacher's best is looked for among all words, so that words the student does not have
        count against it.
        """
        self.student.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        rows = self._rows()
        for batch in batches:
            hidden, taught = self._states(batch, is_last=True)
            ones = torch.ones(len(hidden), device=self.device)
            args = (hidden, rows, taught, self.taught_rows, ones, self.temperature)
            sums[0] += divergence(*args).double().cpu()
            for at in range(0, len(hidden), SLICE):
                own, other = hidden[at : at + SLICE], taught[at : at + SLICE]
                best = self.words[F.linear(own.to(rows.dtype), rows).argmax(-1)]
                wanted = F.linear(other.to(self.teacher_rows.dtype), self.teacher_rows).argmax(-1)
                sums[1] += (best == wanted).sum().cpu()
            sums[2] += len(hidden)
        self.student.train()
        loss, agree, count = ranks.sum(sums.to(ranks.collective_device())).tolist()
        return {"eval_loss": loss / max(count, 1), "agreement": agree / max(count, 1)}

    def _states(self, batch: Batch, is_last: bool) -> tuple[Tensor, Tensor]:
        """Return the hidden states of both where there is something to learn."""
        inputs = batch.on(self.device)
        chosen = inputs["labels"] != IGNORED
        given = (inputs["input_ids"], inputs.get("position_ids"))
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
        with without_sync(self.student, is_last), autocast:
            hidden = self.student(*given)
        with torch.no_grad(), autocast:
            taught = self.teacher(*given)
        return hidden[chosen], taught[chosen]

    def _rows(self) -> Tensor:
        """Return the student's output rows of its words."""
        if self.kept_rows is not None:
            return self.kept_rows
        return self.rows if len(self.words) == len(self.rows) else self.rows[self.words]

    def _cut(self, rows: Tensor) -> Tensor:
        """Return frozen rows of the words, in the format of the products."""
        dtype = torch.bfloat16 if self.autocast else rows.dtype
        kept = rows if len(self.words) == len(rows) else rows[self.words]
        return kept.detach().to(dtype)
