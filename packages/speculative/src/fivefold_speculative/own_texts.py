"""What a model writes itself: texts to fit a copy of it to, or to measure a draft on."""

from __future__ import annotations

from fivefold_lm import FullAttention, LanguageModel, Sampler, SamplingConfig

from .drafters.none import PlainDrafter
from .engine import Engine
from .prompt_sets import chat_prompts, spread
from .record import Request

_PROMPTS, _TOKENS = 16, 48


def own_texts(model: LanguageModel) -> list[list[int]]:
    """Return built-in prompts, each with the model's own greedy continuation."""
    engine = Engine(
        model=model,
        attention=FullAttention(),
        sampler=Sampler(SamplingConfig(), vocab_size=model.vocab_size),
        drafting=lambda session: PlainDrafter(),
    )
    longest = max(model.context_len // 4, 1)
    prompts = [model.encode(p.content)[:longest] for p in spread(chat_prompts("open"), _PROMPTS)]
    batch = engine.batch([Request(prompt, _TOKENS) for prompt in prompts], text=False)
    for _ in batch.steps():
        pass
    return batch.session.tokens
