"""A toy target whose laws can be enumerated, drafts for it, and the exact law of its text.

The law is computed by transformers alone, its own logits processors included: nothing of the
engine, the cache or the sampler takes part.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import torch
from fivefold_lm import LanguageModel, SamplingConfig
from fivefold_lm.testing import tiny_model
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .draft_model import DraftKind, DraftModel


def toy_target(vocab: int = 8, seed: int = 0, eos: bool = False) -> LanguageModel:
    """Return a tiny random Llama.

    Args:
        vocab: tokens.
        seed: of the weights.
        eos: whether token 0 ends a text.
    """
    model = tiny_model(
        vocab=vocab,
        seed=seed,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return model if eos else replace(model, eos_ids=())


class ToyDrafts:
    """Gives every drafter of a toy session a draft, whatever name it asks for.

    `toy-1`, `toy-2`, … are drafts of their own, with other noise and another word left out.

    The independent draft is the target with noise on its weights and a reduced vocabulary: all
    tokens but the last. The feature head is the target's decoder behind a mixing layer.

    Args:
        target: the toy target.
        noise: how far the draft is from the target; 0: equal, and of the whole vocabulary.
        seed: of the noise.
    """

    def __init__(self, target: LanguageModel, noise: float = 0.3, seed: int = 1) -> None:
        self._target, self._noise, self._seed = target, noise, seed

    def __call__(self, name: str, kind: DraftKind) -> DraftModel:
        """Return a draft of a kind."""
        number = int(name.removeprefix("toy-")) if name.startswith("toy-") else 0
        with torch.random.fork_rng():
            torch.manual_seed(self._seed + number)
            module = copy.deepcopy(self._target.module)
            for weight in module.parameters():
                if weight.ndim > 1:
                    weight.data += self._noise * weight.data.std() * torch.randn_like(weight)
            size, device = int(module.config.hidden_size), self._target.device
            mix = nn.Linear(2 * size, size, bias=False).requires_grad_(False).to(device)
        num_words = self._target.vocab_size - int(self._noise > 0)
        words = torch.arange(num_words, device=device).flip(0) + number
        words %= self._target.vocab_size
        decoder, rows = module.base_model, module.lm_head.weight.detach()[words]
        embedding: nn.Module = module.get_input_embeddings()
        assert isinstance(decoder, PreTrainedModel)

        def embed(tokens: Tensor, features: Tensor) -> Tensor:
            own: Tensor = embedding(tokens)
            mixed: Tensor = mix(torch.cat([own, features], dim=-1))
            return own + 0.5 * mixed

        return DraftModel(
            module=decoder,
            head=lambda hidden: hidden @ rows.T,
            embed=embed if kind is DraftKind.FEATURE_HEAD else None,
            vocab_ids=words,
            num_words=num_words,
            context_len=self._target.context_len,
            name=name,
        )


@torch.no_grad()
def exact_joint_law(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, num_tokens: int
) -> np.ndarray:
    """Return the probability of every continuation, one axis a token, in float64.

    Args:
        model: the target; small enough for vocabulary ** tokens passes.
        prompt: what is continued.
        sampling: the user's sampler.
        num_tokens: tokens of the continuation.
    """
    vocab = model.vocab_size
    law = np.ones(())
    for length in range(num_tokens):
        prefixes = list(itertools.product(range(vocab), repeat=length))
        ids = torch.tensor([[*prompt, *prefix] for prefix in prefixes], device=model.device)
        logits = model.module(input_ids=ids, use_cache=False).logits[:, -1].double()
        step = plain_law(logits, ids, len(prompt), sampling)
        law = law[..., None] * step.cpu().numpy().reshape(*[vocab] * length, vocab)
    return law


def plain_law(
    logits: Float[Tensor, "batch vocab"], ids: Tensor, prompt_len: int, sampling: SamplingConfig
) -> Float[Tensor, "batch vocab"]:
    """Return the law of the next token by transformers' own processors.

    Args:
        logits: the model's.
        ids: the text so far, [batch, token].
        prompt_len: tokens of it that are the prompt.
        sampling: the user's sampler, temperature above 0.
    """
    scores = logits
    if sampling.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    if sampling.presence_penalty != 0:
        written = torch.zeros_like(scores).scatter(1, ids[:, prompt_len:], 1.0)
        scores = scores - sampling.presence_penalty * written
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    law: Tensor = warpers(ids, scores).softmax(-1)  # type: ignore[arg-type]
    return law


@torch.no_grad()
def plain_greedy(
    model: LanguageModel, prompt: list[int], max_new_tokens: int
) -> tuple[list[int], list[float]]:
    """Continue a prompt by argmax, one whole forward pass a token, no cache.

    Returns:
        New tokens, EOS included, and at each the gap between the two best logits.
    """
    tokens, gaps = list(prompt), []
    while len(tokens) < min(len(prompt) + max_new_tokens, model.context_len):
        ids = torch.tensor([tokens], device=model.device)
        best = model.module(input_ids=ids, use_cache=False).logits[0, -1].float().topk(2)
        tokens.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        if tokens[-1] in model.eos_ids:
            break
    return tokens[len(prompt) :], gaps
