"""The next token as the objective: a model under a training method, its loss, its evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..protocol import TrainingHandle
from .data.blocks import Batch
from .ranks import Ranks, without_sync


@dataclass
class LanguageTrainee:
    """A causal language model that learns the next token.

    Calls the model as `TrainingHandle` says.
    """

    module: nn.Module
    """The model, or the DDP or FSDP2 module made of it."""
    handle: TrainingHandle
    """The method that was applied to it."""
    device: torch.device
    autocast: bool = False
    """Whether to compute in bfloat16 where that is safe."""

    def loss(self, batch: Batch, num_labels: int, is_last: bool) -> Float[Tensor, ""]:
        """Return this process's part of the loss of a step."""
        inputs = self.handle.local_batch(batch.on(self.device))
        count = torch.tensor(num_labels, device=self.device)
        with without_sync(self.module, is_last), self._precision():
            output = self.module(**inputs, num_items_in_batch=count, use_cache=False)
        loss: Tensor = output.loss
        return loss

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], ranks: Ranks) -> dict[str, float]:
        """Return loss, perplexity and accuracy over batches, over all processes.

        Perplexity is the exponential of the mean negative log-likelihood of the labels that count.
        """
        self.module.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            inputs = self.handle.local_batch(batch.on(self.device))
            count = torch.tensor(max(1, batch.num_labels), device=self.device)
            with self._precision():
                output = self.module(**inputs, num_items_in_batch=count, use_cache=False)
                scores = self.handle.scores(output, inputs["shift_labels"])
            found = (scores.nll, scores.num_correct, scores.num_tokens)
            sums += torch.stack([value.double().cpu() for value in found])
        self.module.train()
        nll, correct, tokens = ranks.sum(sums.to(ranks.collective_device())).tolist()
        loss = nll / max(tokens, 1)
        return {
            "eval_loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": correct / max(tokens, 1),
        }

    def _precision(self) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.autocast
        )
        return found
