"""A loaded model and the methods chosen for it: what every task decodes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from fivefold import Method, Run, UserError
from fivefold_lm import (
    AttentionMethod,
    Capability,
    LanguageModel,
    Sampler,
    apply_runtime,
    load_model,
    self_test,
)
from fivefold_lm.config import CacheConfig, ModelConfig, RuntimeConfig, SamplingConfig

from ._words import Rule
from .corrector import Corrector, NoCorrection
from .decode import decode
from .draft_model import DraftKind, DraftLoader, DraftModel
from .drafter import Drafter
from .drafters.none import PlainDrafter
from .outcome import StepOutcome
from .record import Request
from .rules import AcceptanceRule, rule_for
from .session import Session


def require(model: LanguageModel, method: Method) -> None:
    """Refuse a model that lacks what a method says it needs of it.

    Raises:
        UserError: with the capability and why the model lacks it.
    """
    for capability in Capability:
        if capability in method.needs:
            model.require(capability)


def no_correction(session: Session) -> Corrector:
    """Build `correction=none` without a configuration."""
    return NoCorrection()


@dataclass(frozen=True)
class Engine:
    """What does not change from one batch to the next.

    Args:
        model: the target.
        attention: how it attends.
        sampler: makes the law of its text out of its logits.
        drafting: builds the drafter of a session.
        correction: builds the corrector of a session.
        rule: acceptance rule, or `auto`.
        max_len: most tokens a row may hold; 0: the model's context.
        drafts: where drafters get their draft models.
        say: told what takes time: a download, a measurement.
    """

    model: LanguageModel
    attention: AttentionMethod
    sampler: Sampler
    drafting: Callable[[Session], Drafter]
    correction: Callable[[Session], Corrector] = no_correction
    rule: str = Rule.AUTO
    max_len: int = 0
    drafts: Callable[[str, DraftKind], DraftModel] | None = None
    say: Callable[[str], None] = lambda _: None

    @classmethod
    def of(cls, run: Run, rule: str, *, tested: bool = True) -> Engine:
        """Load the model of a run and test that it can verify trees.

        Args:
            run: the run; its nodes `model`, `sampling`, `cache`, `runtime` and its methods count.
            rule: acceptance rule, or `auto`.
            tested: refuse a model whose tree forward is wrong.

        Raises:
            UserError: the model cannot be loaded, or its tree forward is wrong.
        """
        apply_runtime(run.node("runtime", RuntimeConfig))
        run.environment(threads=torch.get_num_threads())
        config = run.node("model", ModelConfig)
        with memory_errors():
            model = load_model(config, run.note)
        for hook in ("drafting", "attention", "correction"):
            require(model, run.method(hook))
        attention: AttentionMethod = run.build("attention")
        if tested:
            self_test(model, attention)
        return cls(
            model=model,
            attention=attention,
            sampler=Sampler(run.node("sampling", SamplingConfig), vocab_size=model.vocab_size),
            drafting=lambda session: run.build("drafting", session),
            correction=lambda session: run.build("correction", session),
            rule=rule,
            max_len=run.node("cache", CacheConfig).max_len,
            drafts=DraftLoader(model, config, run.note),
            say=run.note,
        )

    @property
    def sampling(self) -> SamplingConfig:
        """How tokens are drawn."""
        return self.sampler.config

    def plain(self) -> Engine:
        """Return the same engine with plain decoding: nothing drafted, nothing corrected."""
        return replace(
            self,
            drafting=lambda session: PlainDrafter(),
            correction=no_correction,
            rule=Rule.AUTO,
        )

    def check(self, request: Request) -> None:
        """Refuse a request that no session would take.

        Raises:
            UserError: an empty prompt, or one that leaves no room in the context.
        """
        self.session([request])

    def batch(self, requests: Sequence[Request], *, logprobs: int = -1, text: bool = True) -> Batch:
        """Prepare to decode some requests together.

        Args:
            requests: one a row.
            logprobs: alternatives recorded beside each token's own; negative: none of it.
            text: make text as tokens come.

        Raises:
            UserError: an empty prompt, or one that leaves no room in the context.
        """
        with memory_errors():
            session = self.session(requests, logprobs, text)
            drafter = self.drafting(session)
            rule = rule_for(self.rule, drafter, session.sampler)
            return Batch(session, drafter, rule, self.correction(session))

    def session(
        self, requests: Sequence[Request], logprobs: int = -1, text: bool = True
    ) -> Session:
        """Return a session for some requests; arguments and errors as in `batch`."""
        return Session(
            self.model,
            requests,
            self.sampler,
            self.attention,
            max_len=self.max_len,
            logprobs=logprobs,
            text=text,
            load_draft=self.drafts,
            say=self.say,
        )


@dataclass(frozen=True)
class Batch:
    """A session with what decodes it; `session.extend` and another `steps` go on with it."""

    session: Session
    drafter: Drafter
    rule: AcceptanceRule
    corrector: Corrector

    def steps(self) -> Iterator[StepOutcome]:
        """Decode until every row has stopped, one outcome a step."""
        with memory_errors():
            yield from decode(self.session, self.drafter, self.rule, self.corrector)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a full memory into a line that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_memory_error(error):
            raise
        raise UserError(
            "out of memory",
            remedy="lower batch_size, max_new_tokens or the tree, or set model.dtype=bfloat16",
        ) from None


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
