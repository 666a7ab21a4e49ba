"""From logits to a law to a token: Hugging Face's processors, in their order, without a sync."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import LogitsProcessorList

from .config import SamplingConfig
from .history import History

HEAD = 1024  # tokens sorted first in the search for the nucleus, where it is likely to end


class Sampler:
    """Turn the target's logits into the law its text follows.

    Order, as in transformers 5: repetition penalty, presence penalty, stock processors; then,
    unless greedy, temperature, top-k, top-p, min-p. Presence penalty is that of OpenAI and vLLM:
    it looks at the generated text only, the repetition penalty at the prompt too.
    """

    def __init__(
        self,
        config: SamplingConfig,
        processors: LogitsProcessorList | None = None,
        *,
        vocab_size: int,
    ) -> None:
        """Make a sampler.

        Args:
            config: the settings.
            processors: stock logits processors, called row by row with the row's own input ids.
            vocab_size: entries of the logits.
        """
        self.config = config
        self.processors = processors or LogitsProcessorList()
        self.vocab_size = vocab_size
        self.greedy = config.temperature == 0
        self.needs_history = bool(
            config.repetition_penalty != 1 or config.presence_penalty != 0 or self.processors
        )

    @property
    def draft_config(self) -> SamplingConfig:
        """What a draft's law should be made by to come near this one: no penalties."""
        return replace(self.config, repetition_penalty=1.0, presence_penalty=0.0)

    def history(
        self, prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> History | None:
        """Begin the history this sampler needs; None when it needs none."""
        if not self.needs_history:
            return None
        return History.of(
            prompts,
            self.vocab_size,
            seen=self.config.repetition_penalty != 1,
            written=self.config.presence_penalty != 0,
            ids=bool(self.processors),
            device=device,
        )

    def scores(
        self, logits: Float[Tensor, "batch vocab"], history: History | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Return logits after penalties and, unless greedy, the cuts: -inf where cut off."""
        scores = logits.float()
        if history is not None:
            scores = self._penalised(scores, history)
        if self.greedy:
            return scores
        config = self.config
        scores = scores / config.temperature
        if config.top_k > 0:
            scores = top_k(scores, config.top_k)
        if config.top_p < 1:
            scores = top_p(scores, config.top_p)
        if config.min_p > 0:
            scores = min_p(scores, config.min_p)
        return scores

    def law(
        self, logits: Float[Tensor, "batch vocab"], history: History | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Return the probabilities of the next token; all on one token when greedy."""
        scores = self.scores(logits, history)
        if not self.greedy:
            return scores.softmax(-1)
        best = scores.argmax(-1, keepdim=True)
        return torch.zeros_like(scores).scatter(1, best, 1.0)

    @staticmethod
    def draw(
        law: Float[Tensor, "batch vocab"], uniform: Float64[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """Draw a token by inverting the distribution function; never one of probability zero.

        Args:
            law: probabilities, or weights of any sum above 0.
            uniform: in the open interval (0, 1).
        """
        below = law.cumsum(-1, dtype=torch.float64)
        target = uniform[:, None] * below[:, -1:]
        return torch.searchsorted(below, target, right=True)[:, 0]

    def _penalised(self, scores: Tensor, history: History) -> Tensor:
        if history.seen is not None:
            factor = self.config.repetition_penalty
            lowered = torch.where(scores < 0, scores * factor, scores / factor)
            scores = torch.where(history.seen, lowered, scores)
        if history.written is not None:
            scores = scores - self.config.presence_penalty * history.written
        if history.ids is not None and history.lengths is not None:
            lengths = history.lengths.tolist()  # stock processors take true ids: the host must know
            process: Any = self.processors
            ids = history.ids
            rows = [process(ids[i : i + 1, :n], scores[i : i + 1]) for i, n in enumerate(lengths)]
            scores = torch.cat(rows)
        return scores


def top_k(scores: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Cut off what scores below the k-th best; equals of the k-th stay."""
    kth = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < kth, -math.inf)


def top_p(scores: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Cut off the least likely tokens that together hold at most 1 - p; the best one stays.

    On the host's own memory the search begins among the `HEAD` best tokens: sorting 49,152 scores
    takes 20 times as long. An accelerator sorts them all, as it must not be asked in between.
    """
    if scores.device.type == "cpu" and scores.shape[-1] > HEAD:
        best = scores.topk(HEAD).values
        mass = (best - scores.logsumexp(-1, keepdim=True)).exp()
        after = mass.sum(-1)
        if bool((after > p + 1e-6).all()):
            above = mass.cumsum(-1) - mass  # held by better tokens
            kept = (above < p).sum(-1, keepdim=True)
            return scores.masked_fill(scores < best.gather(1, kept - 1), -math.inf)
    return top_p_sorted(scores, p)


def top_p_sorted(scores: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """The plain twin of `top_p`: sort everything, as transformers does.

    Tokens as likely as the last one kept stay too: which of them a sort puts first is chance.
    """
    ascending = scores.sort(descending=False).values
    cut = ascending.softmax(-1).cumsum(-1) <= 1 - p
    cut[:, -1:] = False
    least = ascending.masked_fill(cut, math.inf).amin(-1, keepdim=True)
    return scores.masked_fill(scores < least, -math.inf)


def min_p(scores: Float[Tensor, "batch vocab"], share: float) -> Float[Tensor, "batch vocab"]:
    """Cut off what is less than `share` times as likely as the best token."""
    likely = scores.softmax(-1)
    return scores.masked_fill(likely < share * likely.amax(-1, keepdim=True), -math.inf)
