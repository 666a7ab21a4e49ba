"""Who answers: our engine with a method, or transformers' `generate` with a setting."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from fivefold_lm import FullAttention, LanguageModel, ModelConfig, Sampler, SamplingConfig
from fivefold_lm.loading import locate
from fivefold_speculative import DraftLoader, Request
from fivefold_speculative.choosing import choose
from fivefold_speculative.engine import Engine
from fivefold_speculative.task_configs import parse_method
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Answered:
    """One answer.

    Args:
        tokens: new tokens, end of text included.
        seconds: wall time of the call, prompt included.
        passes: passes of the target; 0 where the program does not tell.
        nodes: nodes of one pass, the root included; 0 where the program does not tell.
        stages: seconds by stage of the loop.
    """

    tokens: list[int]
    seconds: float
    passes: int = 0
    nodes: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)


class Contestant(Protocol):
    """Something that continues a prompt."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """What it was set to."""
        ...

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answered:
        """Continue a prompt greedily."""
        ...


@dataclass(frozen=True, eq=False)
class Ours:
    """Our loop with a drafting method."""

    name: str
    engine: Engine
    settings: Mapping[str, object]

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answered:
        """Continue a prompt greedily."""
        begin = time.perf_counter()
        batch = self.engine.batch([Request(list(prompt), max_new_tokens)], text=False)
        nodes = max(outcome.num_nodes for outcome in batch.steps())
        seconds = time.perf_counter() - begin
        record = batch.session.records[0]
        stages = batch.session.timing.metrics()
        return Answered(record.tokens, seconds, record.num_spec_steps, nodes, stages)


@dataclass(frozen=True, eq=False)
class Stock:
    """transformers' own `generate`, untouched."""

    name: str
    module: PreTrainedModel
    settings: Mapping[str, object]
    arguments: Mapping[str, Any]

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answered:
        """Continue a prompt greedily."""
        ids = torch.tensor([list(prompt)], device=self.module.device)
        begin = time.perf_counter()
        out = self.module.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            **self.arguments,
        )
        seconds = time.perf_counter() - begin
        return Answered(out[0, ids.shape[1] :].tolist(), seconds)


@dataclass(frozen=True, eq=False)
class Threaded:
    """A contestant at its number of threads."""

    contestant: Contestant
    threads: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.contestant.name

    @property
    def settings(self) -> Mapping[str, object]:
        """What it was set to, the threads included."""
        return {**self.contestant.settings, "threads": self.threads}

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answered:
        """Continue a prompt greedily."""
        torch.set_num_threads(self.threads)
        return self.contestant.answer(prompt, max_new_tokens)


def ours(model: LanguageModel, spec: str | Mapping[str, Any], name: str = "") -> Ours:
    """Return our loop with a drafting method and its settings."""
    method, values = parse_method(spec)
    choice = choose("drafting", method, values)
    engine = Engine(
        model=model,
        attention=FullAttention(),
        sampler=Sampler(SamplingConfig(), vocab_size=model.vocab_size),
        drafting=choice.build,
        drafts=DraftLoader(model),
    )
    return Ours(name or method, engine, {"drafting": method, **values})


def stock_module(config: ModelConfig) -> PreTrainedModel:
    """Load the target once more, as transformers does it, so that nothing of ours is in it."""
    where, _ = locate(config, print)
    auto: Any = AutoModelForCausalLM
    module: PreTrainedModel = auto.from_pretrained(where, dtype=getattr(torch, config.dtype))
    return module


def plain_stock(module: PreTrainedModel) -> list[Stock]:
    """Return `generate` as it comes."""
    return [Stock("transformers", module, {}, {})]


def static_stock(module: PreTrainedModel) -> Stock:
    """Return `generate` with a static cache, which transformers compiles for on a GPU."""
    settings = {"cache_implementation": "static"}
    return Stock("transformers_static", module, settings, settings)


def lookup_stock(module: PreTrainedModel, counts: Sequence[int]) -> list[Stock]:
    """Return `generate` with its own prompt look-up, at several settings."""
    return [
        Stock("transformers_lookup", module, {"prompt_lookup_num_tokens": count, **more}, settings)
        for count in counts
        for more in ({}, {"max_matching_ngram_size": 3})
        for settings in [{"prompt_lookup_num_tokens": count, **more}]
    ]


def assisted_stock(
    module: PreTrainedModel, draft: Path, counts: Sequence[int], thresholds: Sequence[float]
) -> list[Stock]:
    """Return `generate` with a draft as `assistant_model`, at several settings.

    Args:
        module: the target.
        draft: folder of the draft; each setting has its own copy of the module, because the
            setting lives in its generation config.
        counts: values of `num_assistant_tokens`.
        thresholds: values of `assistant_confidence_threshold`.
    """
    made = []
    for count in counts:
        for threshold in thresholds:
            auto: Any = AutoModelForCausalLM
            assistant = auto.from_pretrained(draft, dtype=module.dtype)
            assistant.generation_config.num_assistant_tokens = count
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = threshold
            settings = {"num_assistant_tokens": count, "assistant_confidence_threshold": threshold}
            arguments = {"assistant_model": assistant}
            made.append(Stock("transformers_assisted", module, settings, arguments))
    return made
