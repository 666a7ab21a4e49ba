"""What the parts of `benchmarks/trees.py` have in common: cases, prompts, decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fivefold.result import Result
from fivefold_lm import FullAttention, LanguageModel, Sampler, SamplingConfig
from fivefold_speculative import (
    AcceptanceVector,
    DraftLoader,
    DraftModel,
    Proposal,
    Request,
    TreeTopology,
    measure_acceptance,
)
from fivefold_speculative.choosing import choose
from fivefold_speculative.engine import Engine
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts

DRAWS = 4
"""How often children are drawn at every position of a text that is measured on."""


@dataclass(frozen=True)
class Case:
    """How much is measured.

    Args:
        prompts: of each half of each class.
        tokens: new tokens a prompt.
        temperatures: of yield.
        growth: sizes of the plot of growth.
        growth_prompts: decoded for each point of it.
        rule_temperatures: of the comparison of rules.
        classes: of prompts.
        kinds: of drafts.
    """

    prompts: int
    tokens: int
    temperatures: tuple[float, ...]
    growth: tuple[int, ...]
    rule_temperatures: tuple[float, ...]
    classes: tuple[str, ...] = ("chat", "humaneval")
    kinds: tuple[str, ...] = ("independent", "feature_head")
    growth_prompts: int = 4


FULL = Case(
    16,
    64,
    (0.0, 0.6),
    (2, 8, 32, 64, 128, 256, 512),
    (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
)
QUICK = Case(4, 32, (0.0, 0.6), (2, 8, 32, 128), (0.2, 0.6, 1.2), ("chat",), ("independent",))
"""The named smaller case: 4 chat prompts a half, 32 tokens, one draft, two temperatures."""


@dataclass(frozen=True)
class Yield:
    """What was decoded: tokens and passes of every prompt, cut by nothing but EOS; the texts."""

    tokens: list[int]
    passes: list[int]
    texts: list[list[int]]

    @property
    def mean(self) -> float:
        """Tokens a pass."""
        return sum(self.tokens) / sum(self.passes)

    @property
    def error(self) -> float:
        """Standard error of the mean; prompts are independent."""
        count = len(self.tokens)
        if count < 2:
            return math.nan
        off = [t - self.mean * p for t, p in zip(self.tokens, self.passes, strict=True)]
        return math.sqrt(sum(x * x for x in off) * count / (count - 1)) / sum(self.passes)


@dataclass(frozen=True)
class Trees:
    """The benchmark of one model."""

    model: LanguageModel
    case: Case
    result: Result
    batch: int

    def has(self, **wanted: object) -> bool:
        """Say whether there is a row of these entries."""
        return any(wanted.items() <= row.items() for row in self.result.rows)

    def sampler(self, temperature: float) -> Sampler:
        """Return the sampler of a temperature."""
        return Sampler(SamplingConfig(temperature=temperature), vocab_size=self.model.vocab_size)

    def prompts(self, name: str, *, held_out: bool) -> list[list[int]]:
        """Return one half of a class, as tokens."""
        if name == "chat":
            half = chat_prompts("held_out" if held_out else "open")
        else:
            half = human_eval_prompts()[int(held_out) :: 2]
        fitting = [
            tokens
            for prompt in half
            if len(tokens := self.model.encode(prompt.content))
            < self.model.context_len - self.case.tokens
        ]
        places = [i * len(fitting) // self.case.prompts for i in range(self.case.prompts)]
        return fitting if self.case.prompts >= len(fitting) else [fitting[i] for i in places]

    def texts(
        self, sampler: Sampler, prompts: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[int]]:
        """Let the target continue prompts; return whole texts and where the answers begin."""
        texts = []
        plain = self.engine(choose("drafting", "none").build, sampler)
        for at in range(0, len(prompts), self.batch):
            batch = plain.batch(self.requests(prompts, at), text=False)
            for _ in batch.steps():
                pass
            texts += batch.session.tokens
        return texts, [len(prompt) for prompt in prompts]

    def vector(
        self, draft: DraftModel, sampler: Sampler, proposal: Proposal, prompts: Sequence[list[int]]
    ) -> AcceptanceVector:
        """Measure a draft on the target's own answers to some prompts."""
        return self.vector_on(draft, sampler, proposal, *self.texts(sampler, prompts))

    def vector_on(
        self,
        draft: DraftModel,
        sampler: Sampler,
        proposal: Proposal,
        texts: Sequence[list[int]],
        starts: Sequence[int],
    ) -> AcceptanceVector:
        """Measure a draft on texts, behind their prompts."""
        draws = 1 if sampler.greedy else DRAWS
        return measure_acceptance(
            self.model, draft, sampler, proposal, 32, texts, starts=starts, draws=draws
        )

    def decode(
        self, tree: TreeTopology, kind: str, sampler: Sampler, prompts: Sequence[list[int]]
    ) -> Yield:
        """Decode prompts with a tree."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "tree.json"
            tree.write(file)
            settings = {"topology": str(file), "kind": kind}
            engine = self.engine(choose("drafting", "sequoia", settings).build, sampler)
            return self.run(engine, prompts)

    def run(self, engine: Engine, prompts: Sequence[list[int]]) -> Yield:
        """Decode prompts some at a time; the last step counts whole, though its text is cut."""
        tokens, passes, texts = [], [], []
        for at in range(0, len(prompts), self.batch):
            requests = self.requests(prompts, at)
            batch = engine.batch(requests, text=False)
            steps = [step.accepted.count for step in batch.steps()]
            counts = torch.stack(steps)  # [step, row]
            tokens += counts.sum(0).tolist()
            passes += (counts > 0).sum(0).tolist()
            texts += batch.session.tokens
        return Yield(tokens, passes, texts)

    def requests(self, prompts: Sequence[list[int]], at: int) -> list[Request]:
        """Return one batch of requests, each with its own noise."""
        some = prompts[at : at + self.batch]
        return [
            Request(prompt, self.case.tokens, key=key) for key, prompt in enumerate(some, start=at)
        ]

    def engine(self, build: Callable[..., Any], sampler: Sampler) -> Engine:
        """Return our loop with a drafting method."""
        return Engine(
            model=self.model,
            attention=FullAttention(),
            sampler=sampler,
            drafting=build,
            drafts=DraftLoader(self.model),
            say=print,
        )
