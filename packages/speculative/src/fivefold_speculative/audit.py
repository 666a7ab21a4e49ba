"""`fivefold audit`: does a drafting method leave the model's text law as it is?

Every check compares the method, as the user has set it, with something that has no part in the
engine: transformers' own forward passes and logits processors, or arithmetic over all draws.
Rounded weights are a model of their own: its texts are compared with its own plain decoding, and
that with transformers' forward pass over plain torch products of the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from fivefold import Run, UserError
from fivefold_lm import Capability, LanguageModel, Sampler, SamplingConfig, self_test
from fivefold_lm.check import ROUNDED_TOLERANCE, TOLERANCE
from fivefold_lm.kernels import is_rounded
from fivefold_lm.packed import stock_products
from jaxtyping import Float
from torch import Tensor

from ._words import Proposal, Rule
from .checks import (
    Check,
    cache_check,
    chi_square_check,
    greedy_check,
    joint_law_check,
    run_to_end,
    same_seed_check,
)
from .engine import Engine, memory_errors
from .enumeration import rule_law_error
from .prompt_sets import chat_prompts, spread
from .record import Request
from .rules import rule_for
from .session import Session
from .task_configs import AuditConfig
from .toy import ToyDrafts, exact_joint_law, plain_greedy, plain_law, toy_target

OPENING = "The best thing about"
"""What the joint law on the model itself continues: many words may follow."""
_TOY_PROMPT = [3, 1, 4, 1, 5, 3, 1, 4]
_TOYS = ((8, 3), (48, 2))  # vocabulary and tokens of the joint law; the second for wide trees
_TOY_TOP_K = 4
_TOY_TOP_P, _TOY_TEMPERATURE = 0.8, 1.5  # a nucleus of several tokens on a peaked toy
_FIRST, _SECOND = 8, 8  # likeliest tokens that have bins of their own
_ROWS = 32  # of the model's samples that are drawn together
_SEED_TOKENS = 24
_CACHE_TOKENS = 12
_ENUMERATION_TOLERANCE = 1e-9


def run(config: AuditConfig, run: Run) -> int:
    """Run `fivefold audit`.

    Returns:
        0, or 1 when a check failed.
    """
    engine = Engine.of(run, config.rule, tested=False)
    begin = time.perf_counter()
    found = []
    with memory_errors():
        for check in Audit(engine, config).checks():
            found.append(check)
            run.row(
                check=check.name,
                passed=check.passed,
                statistic=check.statistic,
                threshold=check.threshold,
                detail=check.detail,
            )
            run.note(f"{'passed' if check.passed else 'FAILED'}: {check.name}: {check.detail}")
    seconds = time.perf_counter() - begin
    num_failed = sum(not check.passed for check in found)
    name = run.method("drafting").name
    run.table(f"audit of drafting={name} on {engine.model.name}", run.result.rows)
    run.figure("num_checks", len(found))
    run.figure("num_failed", num_failed)
    run.figure("seconds", seconds)
    run.print(f"{len(found) - num_failed} of {len(found)} checks passed")
    return 1 if num_failed else 0


@dataclass(frozen=True)
class Audit:
    """The checks of one method on one model.

    Args:
        engine: the user's model and methods.
        config: sizes and seeds.
    """

    engine: Engine
    config: AuditConfig

    @property
    def sampling(self) -> SamplingConfig:
        """The sampler in use, made to sample, with the audit's seed."""
        used = self.engine.sampling
        return replace(
            used, temperature=used.temperature or self.config.temperature, seed=self.config.seed
        )

    @property
    def sampling_rule(self) -> str:
        """The rule in use; `greedy` cannot sample."""
        return Rule.AUTO if self.engine.rule == Rule.GREEDY else self.engine.rule

    def checks(self) -> Iterator[Check]:
        """Make every check, one after another."""
        yield self.tree_forward()
        if Capability.TREE_ATTENTION not in self.engine.model.capabilities:
            return  # nothing else can be run
        if is_rounded(self.engine.model.module):
            yield self.reference()
        yield from self.greedy_texts()
        yield self.cache()
        yield self.rule_by_enumeration()
        yield self.same_seed()
        yield from self.toy_laws()
        if self.config.model_samples:
            yield self.model_law()

    # The model itself.

    def tree_forward(self) -> Check:
        """Compare a tree forward with sequential forwards, as at every start."""
        name = "tree forward equals sequential forward"
        try:
            found = self_test(self.engine.model, self.engine.attention)
        except UserError as error:
            return Check(name, False, float("inf"), 0.0, str(error))
        return Check(
            name,
            found.passed,
            found.error,
            found.tolerance,
            "largest difference of a logit, in standard deviations",
        )

    def reference(self) -> Check:
        """Look for what plain decoding wrote among the reference's best tokens, place by place.

        Inputs are rounded to bytes, where the last bit of a float may decide: the reference's best
        token is not always the same, but no token is far below it.
        """
        engine = self._with(replace(self.engine.sampling, temperature=0.0))
        worst, same, total = 0.0, 0, 0
        for prompt in self._prompts():
            text = self._plain_text(engine, prompt)
            gaps = reference_gaps(engine.model, prompt, text)
            worst = max(worst, float(gaps.max()))
            same, total = same + int((gaps == 0).sum()), total + len(text)
        return Check(
            "plain text is the reference's, up to rounding",
            worst <= ROUNDED_TOLERANCE,
            worst,
            ROUNDED_TOLERANCE,
            f"{same} of {total} tokens are the reference's best; largest gap to it "
            f"{worst:.2g} standard deviations of the logits",
        )

    def greedy_texts(self) -> Iterator[Check]:
        """Compare greedy texts with plain decoding: each alone, then all in one ragged batch."""
        prompts = self._prompts()
        engine = self._with(replace(self.engine.sampling, temperature=0.0))
        expected = [self._plain_text(engine, prompt) for prompt in prompts]
        length = self.config.max_new_tokens
        groups = [[place] for place in range(len(prompts))]
        groups += [list(range(len(prompts)))] if len(prompts) > 1 else []
        for group in groups:
            kind = "ragged batch" if len(group) > 1 else f"prompt {group[0] + 1} alone"
            yield greedy_check(
                partial(self._session, engine, [prompts[i] for i in group], length),
                engine.drafting,
                engine.rule,
                [expected[i] for i in group],
                f"greedy text equals plain decoding, {kind}",
                engine.correction,
            )

    def cache(self) -> Check:
        """Compare the logits of every step with those of a fresh pass over the whole text."""
        engine = self._with(self.sampling, self.sampling_rule)
        session = self._session(engine, self._prompts()[:1], _CACHE_TOKENS)
        with torch.no_grad():
            ids = torch.tensor([session.tokens[0]], device=engine.model.device)
            spread_of_logits = float(engine.model.module(ids, use_cache=False).logits.std())
        return cache_check(
            session,
            engine.drafting(session),
            engine.rule,
            engine.correction(session),
            self._tolerance() * spread_of_logits,
            "logits after every step equal a fresh pass",
        )

    def same_seed(self) -> Check:
        """Compare sampled text under the look-up rule with plain sampling of the same seed."""
        engine = self._with(self.sampling)
        prompts = self._prompts()[:2]
        return same_seed_check(
            lambda: self._session(engine, prompts, _SEED_TOKENS),
            engine.drafting,
            "same seed, same text under the look-up rule",
            engine.correction,
        )

    def model_law(self) -> Check:
        """Compare the joint law of two tokens after one opening with the model's own.

        Bins: the likeliest first tokens × the likeliest tokens after each, and the rest.
        """
        model = replace(self.engine.model, eos_ids=())
        sampling = self.sampling
        engine = replace(self._with(sampling, self.sampling_rule), model=model)
        opening = model.encode(OPENING, "never")[: model.context_len // 4]
        law, bins = binned_law(model, opening, sampling)
        counts = np.zeros_like(law)
        samples = self.config.model_samples
        for first in range(0, samples, _ROWS):
            rows = min(_ROWS, samples - first)
            session = self._session(engine, [opening] * rows, 2, first)
            drafter, corrector = engine.drafting(session), engine.correction(session)
            for record in run_to_end(session, drafter, engine.rule, corrector):
                counts[bins.place(record.tokens)] += 1
        name = "joint law of two tokens on the model itself"
        return chi_square_check(name, counts, law, self.config.alpha)

    # The toy.

    def rule_by_enumeration(self) -> Check:
        """Enumerate all draws and coins at one node over a vocabulary of four tokens."""
        engine, session = self._toy(self.sampling, [_TOY_PROMPT], 1)
        drafter = engine.drafting(session)
        rule = rule_for(engine.rule, drafter, session.sampler)
        proposal = drafter.proposal
        kinds = [Proposal.POINT_MASS] if proposal is Proposal.EMPTY else [proposal]
        error = max(
            rule_law_error(rule, kind, children, cases=24, seed=self.config.seed)
            for kind in kinds
            for children in (1, 2, 3)
        )
        return Check(
            f"rule {rule.name} keeps the law, by enumeration",
            error <= _ENUMERATION_TOLERANCE,
            error,
            _ENUMERATION_TOLERANCE,
            f"largest deviation of a probability; {proposal} children, 1 to 3 of them",
        )

    def toy_laws(self) -> Iterator[Check]:
        """Compare joint laws of consecutive tokens on a toy model; the builder is the method's."""
        used = self.sampling
        cut = replace(used, top_k=min(used.top_k, _TOY_TOP_K))
        yield self._toy_law(cut, "sampler in use")
        if cut.top_p == 1:
            nucleus = replace(cut, top_p=_TOY_TOP_P, temperature=_TOY_TEMPERATURE)
            yield self._toy_law(nucleus, f"temperature {_TOY_TEMPERATURE} and top-p {_TOY_TOP_P}")

    def _toy_law(self, sampling: SamplingConfig, kind: str) -> Check:
        engine, _ = self._toy(sampling, [_TOY_PROMPT], 1)
        num_tokens = dict(_TOYS)[engine.model.vocab_size]

        def session(rows: int, first: int, seed: int) -> Session:
            return self._session(engine, [_TOY_PROMPT] * rows, num_tokens, first)

        return joint_law_check(
            session,
            engine.drafting,
            engine.rule,
            exact_joint_law(engine.model, _TOY_PROMPT, sampling, num_tokens),
            self.config.toy_samples,
            self.config.seed,
            self.config.alpha,
            f"joint law of {num_tokens} tokens on a toy model, {kind}",
            engine.correction,
        )

    def _toy(
        self, sampling: SamplingConfig, prompts: Sequence[list[int]], length: int
    ) -> tuple[Engine, Session]:
        """Return the methods on a toy model whose vocabulary holds the widest level of the tree.

        Raises:
            UserError: the method cannot be built on any toy.
        """
        for vocab, _ in _TOYS:
            model = toy_target(vocab)
            engine = replace(
                self._with(sampling, self.sampling_rule),
                model=model,
                sampler=Sampler(sampling, vocab_size=vocab),
                drafts=ToyDrafts(model),
                max_len=0,
            )
            session = self._session(engine, prompts, length)
            try:
                engine.drafting(session)
            except UserError:
                if vocab == _TOYS[-1][0]:
                    raise
                continue
            break
        return engine, session

    # Parts.

    def _tolerance(self) -> float:
        """Return how far logits may lie from the reference's, in their standard deviations."""
        model = self.engine.model
        if is_rounded(model.module):
            return ROUNDED_TOLERANCE
        return TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])

    def _with(self, sampling: SamplingConfig, rule: str = Rule.AUTO) -> Engine:
        sampler = Sampler(sampling, vocab_size=self.engine.model.vocab_size)
        return replace(self.engine, sampler=sampler, rule=rule)

    def _session(
        self, engine: Engine, prompts: Sequence[list[int]], length: int, first_key: int = 0
    ) -> Session:
        requests = [
            Request(tokens=prompt, max_new_tokens=length, key=first_key + row)
            for row, prompt in enumerate(prompts)
        ]
        return engine.session(requests, text=False)

    def _prompts(self) -> list[list[int]]:
        """Return built-in prompts, cut to a quarter of the context."""
        model = self.engine.model
        chosen = spread(chat_prompts("open"), self.config.prompts)
        longest = max(model.context_len // 4, 1)
        return [model.encode(prompt.content)[:longest] for prompt in chosen]

    def _plain_text(self, engine: Engine, prompt: list[int]) -> list[int]:
        """Continue a prompt greedily without the engine.

        Under penalties, and with rounded weights, by the engine's plain decoding.
        """
        if not engine.sampler.needs_history and not is_rounded(engine.model.module):
            return plain_greedy(engine.model, prompt, self.config.max_new_tokens)[0]
        batch = engine.plain().batch(
            [Request(tokens=prompt, max_new_tokens=self.config.max_new_tokens)], text=False
        )
        return run_to_end(batch.session, batch.drafter, Rule.AUTO)[0].tokens


@dataclass(frozen=True)
class Bins:
    """Where a text of two tokens is counted.

    Args:
        first: the likeliest first tokens.
        second: after each of them, the likeliest second tokens.
    """

    first: list[int]
    second: list[list[int]]

    def place(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Return the bin of a text; the last row and column are the rest."""
        if tokens[0] not in self.first:
            return len(self.first), 0
        row = self.first.index(tokens[0])
        after = self.second[row]
        return row, after.index(tokens[1]) if tokens[1] in after else len(after)


@torch.no_grad()
def reference_gaps(
    model: LanguageModel, prompt: list[int], text: list[int]
) -> Float[Tensor, " token"]:
    """Return how far each token of a text lies below the reference's best, one pass for all.

    In standard deviations of the logits; 0: it is the best.
    """
    ids = torch.tensor([[*prompt, *text]], device=model.device)
    with stock_products(model.module):
        logits = model.module(input_ids=ids, use_cache=False).logits[0].float()
    before = logits[len(prompt) - 1 : -1]
    chosen = before.gather(1, ids[0, len(prompt) :, None])[:, 0]
    gaps: Tensor = (before.amax(1) - chosen) / before.std()
    return gaps


@torch.no_grad()
def binned_law(
    model: LanguageModel, opening: list[int], sampling: SamplingConfig
) -> tuple[np.ndarray, Bins]:
    """Return the law of the next two tokens over bins, by plain transformers forwards.

    Args:
        model: the target.
        opening: what is continued.
        sampling: the sampler.
    """

    def law_after(texts: list[list[int]]) -> torch.Tensor:
        ids = torch.tensor(texts, device=model.device)
        with stock_products(model.module):
            logits = model.module(input_ids=ids, use_cache=False).logits[:, -1].double()
        return plain_law(logits, ids, len(opening), sampling).cpu()

    head = law_after([opening])[0]
    first = head.topk(min(_FIRST, len(head))).indices.tolist()
    tails = law_after([[*opening, token] for token in first])
    second = tails.topk(min(_SECOND, len(head)), dim=1).indices
    law = np.zeros((len(first) + 1, second.shape[1] + 1))
    for row, token in enumerate(first):
        law[row, :-1] = head[token] * tails[row, second[row]]
        law[row, -1] = head[token] * _without(tails[row], second[row])
    law[-1, 0] = _without(head, torch.tensor(first))
    return law, Bins(first, second.tolist())


def _without(law: torch.Tensor, tokens: torch.Tensor) -> float:
    """Return the probability of all other tokens, exactly 0 where there is none."""
    return float(law.index_fill(0, tokens, 0.0).sum())
