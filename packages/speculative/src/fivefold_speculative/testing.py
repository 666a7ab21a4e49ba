"""The exam of drafters, correctors and acceptance rules, and the bugs it must catch.

A third party's whole test: `class TestMine(DrafterSuite): overrides = ["drafting=mine"]`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from fivefold import Run
from fivefold.testing import compose
from fivefold_lm import FullAttention, LanguageModel, Sampler, SamplingConfig
from fivefold_lm.static import StaticDecoder, cuda_recorder
from fivefold_lm.testing import run_statically
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import checks, rules
from ._words import VALID_FOR, Proposal, Rule
from .checks import Check
from .corrector import Corrector, NoCorrection
from .decode import decode
from .draft_model import DraftKind, DraftModel
from .drafter import Drafter
from .drafters import choosing
from .drafters.none import PlainDrafter
from .enumeration import rule_law_error
from .planner.drafter import AutoDrafter
from .planner.offers import Offer
from .planner.plans import Plan
from .record import Request
from .rules import AcceptanceRule, MultiStepRule, rule_for
from .session import Session
from .state import DecodeState
from .toy import ToyDrafts, exact_joint_law, plain_greedy, toy_target
from .tree import TokenTree

PROMPTS = [[3, 1, 4, 1, 5, 3, 1, 4], [2], [6, 5, 6, 5, 6], [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]]
"""Prompts of a toy session: ragged, with repetitions, one of a single token."""


class _Suite:
    """Composes a task as the command line does and runs its methods on a toy model."""

    overrides: ClassVar[Sequence[str]] = ()
    """What the command line would be given."""
    task: ClassVar[str] = "generate"
    vocab: ClassVar[int] = 8
    """Tokens of the toy model; more for a tree of more than 7 children a node."""
    samples: ClassVar[int] = 20_000
    """Texts drawn for each law."""
    seed: ClassVar[int] = 7

    def target(self, eos: bool = False) -> LanguageModel:
        """Return the toy target; with `eos`, token 0 ends a text."""
        return toy_target(self.vocab, eos=eos)

    def compose(self, *more: str) -> Run:
        """Return the run of these overrides and some more."""
        return compose(self.task, [*self.overrides, *more])

    def session(
        self,
        run: Run,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        *,
        model: LanguageModel | None = None,
        first_key: int = 0,
        sampling: SamplingConfig | None = None,
    ) -> Session:
        """Return a toy session with toy drafts; rows have consecutive keys."""
        model = model or self.target()
        requests = [
            Request(list(prompt), max_new_tokens, key=first_key + row)
            for row, prompt in enumerate(prompts)
        ]
        sampling = sampling or run.node("sampling", SamplingConfig)
        return Session(
            model,
            requests,
            Sampler(sampling, vocab_size=model.vocab_size),
            FullAttention(),
            text=False,
            load_draft=self.drafts(model),
        )

    def drafts(self, target: LanguageModel) -> Callable[[str, DraftKind], DraftModel]:
        """Return where the session's drafters find their drafts."""
        return ToyDrafts(target)

    def drafter(self, run: Run, session: Session) -> Drafter:
        """Build the drafter that was composed."""
        drafter: Drafter = run.build("drafting", session)
        return drafter

    def corrector(self, run: Run, session: Session) -> Corrector:
        """Build the corrector that was composed."""
        corrector: Corrector = run.build("correction", session)
        return corrector

    def decode(self, run: Run, session: Session) -> list[list[int]]:
        """Return the new tokens of every row."""
        drafter, corrector = self.drafter(run, session), self.corrector(run, session)
        records = checks.run_to_end(session, drafter, run.config.rule, corrector)
        return [record.tokens for record in records]

    def law_check(self, num_tokens: int, *more: str) -> Check:
        """Compare the joint law of a text's first tokens with exact enumeration."""
        run = self.compose(*more)
        model, prompt = self.target(), PROMPTS[0]
        sampling = run.node("sampling", SamplingConfig)

        def session(rows: int, first_key: int, seed: int) -> Session:
            settings = SamplingConfig(**{**vars(sampling), "seed": seed})
            prompts = [prompt] * rows
            return self.session(
                run, prompts, num_tokens, model=model, first_key=first_key, sampling=settings
            )

        return checks.joint_law_check(
            session,
            lambda made: self.drafter(run, made),
            run.config.rule,
            exact_joint_law(model, prompt, sampling, num_tokens),
            self.samples,
            self.seed,
        )

    def light(self, module: str) -> None:
        """Assert that a module can be imported where torch cannot."""
        code = (
            "import sys\n"
            "for name in ('torch', 'transformers', 'jaxtyping'): sys.modules[name] = None\n"
            f"import {module}\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, f"{module} is not light:\n{done.stderr}"


class DrafterSuite(_Suite):
    """What every drafting method must hold; `overrides` names the method and its settings."""

    def test_greedy_text_equals_plain_decoding(self) -> None:
        """One request at a time, token by token."""
        run, model = self.compose(), self.target(eos=True)
        for prompt in PROMPTS:
            expected, _ = plain_greedy(model, prompt, 24)
            found = self.decode(run, self.session(run, [prompt], 24, model=model))
            assert found == [expected]

    def test_greedy_text_equals_plain_decoding_in_a_ragged_batch(self) -> None:
        """Rows of different lengths, some of which stop early."""
        run, model = self.compose(), self.target(eos=True)
        expected = [plain_greedy(model, prompt, 24)[0] for prompt in PROMPTS]
        assert self.decode(run, self.session(run, PROMPTS, 24, model=model)) == expected

    def test_law_of_one_token_is_the_targets(self) -> None:
        """By exact enumeration, at temperature 1."""
        _assert(self.law_check(1, "sampling.temperature=1.0"))

    def test_joint_law_of_three_tokens_is_the_targets(self) -> None:
        """Over steps: noise that comes back is seen only here."""
        _assert(self.law_check(3, "sampling.temperature=1.0"))

    def test_joint_law_under_a_cut_sampler_is_the_targets(self) -> None:
        """With temperature, top-p and a penalty that depends on the path."""
        _assert(
            self.law_check(
                3,
                "sampling.temperature=0.8",
                "sampling.top_p=0.8",
                "sampling.repetition_penalty=1.2",
            )
        )

    def test_same_seed_gives_the_text_of_plain_sampling(self) -> None:
        """Under the look-up rule."""
        run = self.compose("sampling.temperature=1.0", "rule=lookup")

        def session() -> Session:
            return self.session(run, PROMPTS, 24)

        _assert(checks.same_seed_check(session, lambda made: self.drafter(run, made)))

    def test_text_does_not_depend_on_batch_mates(self) -> None:
        """A request alone gives what it gives in a batch."""
        run = self.compose("sampling.temperature=1.0")
        together = self.decode(run, self.session(run, PROMPTS, 16))
        for key, prompt in enumerate(PROMPTS):
            assert self.decode(run, self.session(run, [prompt], 16, first_key=key)) == [
                together[key]
            ]

    def test_cache_after_keep_equals_a_fresh_prefill(self) -> None:
        """The root's logits of every step are those of a pass over the whole text."""
        run = self.compose("sampling.temperature=1.0")
        session = self.session(run, PROMPTS, 16)
        drafter, corrector = self.drafter(run, session), self.corrector(run, session)
        _assert(checks.cache_check(session, drafter, run.config.rule, corrector))

    def test_a_session_that_goes_on_equals_a_fresh_one(self) -> None:
        """What a chat keeps between turns changes nothing."""
        run, model = self.compose(), self.target()
        session = self.session(run, PROMPTS, 9, model=model)
        drafter, corrector = self.drafter(run, session), self.corrector(run, session)
        for prompts in (PROMPTS, [[*p[:5], 2, 5] for p in PROMPTS]):
            longer = [[*tokens, 1, 6] for tokens in session.tokens]
            for turn in (longer, prompts):
                checks.run_to_end(session, drafter, run.config.rule, corrector)
                session.extend(turn)
        checks.run_to_end(session, drafter, run.config.rule, corrector)
        expected = [plain_greedy(model, [*p[:5], 2, 5], 9)[0] for p in PROMPTS]
        assert [record.tokens for record in session.records] == expected

    def test_the_describing_module_is_light(self) -> None:
        """Its package can be listed where torch is missing."""
        self.light(self.compose().settings("drafting").__class__.__module__)


class CudaSuite(DrafterSuite):
    """The exam on a GPU: Triton's kernels, recorded passes, and nothing that stands in.

    Target and drafts run in CUDA graphs; none may fail to be recorded.
    """

    samples = 5_000
    decoder: StaticDecoder | None = None

    def target(self, eos: bool = False) -> LanguageModel:
        """Return the toy target on the GPU."""
        model = super().target(eos)
        self.decoder = _recorded(model.module)
        return model

    def drafts(self, target: LanguageModel) -> Callable[[str, DraftKind], DraftModel]:
        """Return drafts on the GPU too."""
        load = super().drafts(target)

        def load_recorded(name: str, kind: DraftKind) -> DraftModel:
            draft = load(name, kind)
            _recorded(draft.module)
            return draft

        return load_recorded

    def teardown_method(self) -> None:
        """Assert that passes really were recorded."""
        assert self.decoder is None or self.decoder.graphs


def _recorded(module: PreTrainedModel) -> StaticDecoder:
    """Move a module to the GPU and let it run as a user's does there."""
    from fivefold_kernels.decoder.gpu import triton_operations  # Triton may be missing

    nn.Module.to(module, "cuda")
    recorder = cuda_recorder(module)
    decoder = run_statically(module, recorder, triton_operations(), _fail).decoder
    assert isinstance(decoder, StaticDecoder)
    return decoder


def _fail(reason: str) -> None:
    raise AssertionError(reason)


class SwitchingSuite(DrafterSuite):
    """The exam of a method inside `drafting=auto`, where rows stop drafting one by one."""

    def drafter(self, run: Run, session: Session) -> AutoDrafter:
        """Build the method as the planned one, at 1.8 tokens for the time of 1.7 plain steps."""
        plain, offer = Offer("none", {}, 1, 1.0, 0.010), Offer("planned", {}, 2, 1.8, 0.017)
        return AutoDrafter(super().drafter(run, session), Plan((plain, offer), 1), None, True)

    def test_a_row_that_has_stopped_drafting_writes_one_token_a_step(self) -> None:
        """Whatever tree the method still makes of it for its mates' sake."""
        run = self.compose("sampling.temperature=1.0")
        session = self.session(run, PROMPTS, 60)
        drafter = self.drafter(run, session)
        rule = rule_for(run.config.rule, drafter, session.sampler)
        alone = 0
        steps = decode(session, drafter, rule, self.corrector(run, session))
        drafting = [True] * len(PROMPTS)
        for outcome in steps:
            for row, tokens in enumerate(outcome.new_tokens):
                assert drafting[row] or len(tokens) <= 1
            drafting = drafter.drafting
            alone += 0 < sum(drafting) < len(PROMPTS)
        assert alone  # some rows had stopped while others had not


class CorrectorSuite(_Suite):
    """What every correction method must hold; a lossless one is held to the target's own text."""

    def test_cache_after_repair_equals_a_fresh_prefill(self) -> None:
        """Also where the corrector keeps what the target would not have written."""
        run = self.compose()
        session = self.session(run, PROMPTS, 16)
        drafter, corrector = self.drafter(run, session), self.corrector(run, session)
        _assert(checks.cache_check(session, drafter, run.config.rule, corrector))

    def test_a_lossless_corrector_leaves_the_greedy_text(self) -> None:
        """Nothing is asked of a lossy one here."""
        run, model = self.compose(), self.target(eos=True)
        session = self.session(run, PROMPTS, 24, model=model)
        if self.corrector(run, session).lossless:
            expected = [plain_greedy(model, prompt, 24)[0] for prompt in PROMPTS]
            assert self.decode(run, session) == expected

    def test_answers_are_as_long_as_was_asked(self) -> None:
        """A corrector may not lose or add tokens."""
        run = self.compose()
        found = self.decode(run, self.session(run, PROMPTS, 13))
        assert [len(tokens) for tokens in found] == [13] * len(PROMPTS)

    def test_the_describing_module_is_light(self) -> None:
        """Its package can be listed where torch is missing."""
        self.light(self.compose().settings("correction").__class__.__module__)


class RuleSuite:
    """What every acceptance rule must hold at one node, by exact enumeration of its draws."""

    tolerance: ClassVar[float] = 1e-9

    def rule(self) -> AcceptanceRule:
        """Return the rule under examination."""
        raise NotImplementedError

    def test_emitted_law_is_the_targets_for_every_valid_proposal(self) -> None:
        """Random laws, laws with zeros, one-hot, equal and disjoint ones; up to four children."""
        rule = self.rule()
        for proposal in sorted(rule.valid_for - {Proposal.EMPTY}):
            for children in (1, 2, 3, 4):
                error = rule_law_error(rule, proposal, children)
                assert error < self.tolerance, f"{proposal}, {children} children: {error:.2e}"

    def test_declared_proposals_are_those_of_the_table(self) -> None:
        """What refuses a pair before torch is loaded must be what the rule says of itself."""
        rule = self.rule()
        assert rule.valid_for == VALID_FOR[rule.name]


# The bugs that an exam must catch.

SEEDED_BUGS = (
    "noise_reused",
    "topk_as_sampled",
    "dropped_duplicates",
    "inverted_top_p",
    "boolean_mask",
)
"""Names that `planted` knows."""


@contextmanager
def planted(bug: str) -> Iterator[None]:
    """Plant a bug in the engine for a while: an exam that still passes examines nothing.

    Args:
        bug: one of `SEEDED_BUGS`:
            `noise_reused`: noise is keyed by the depth in the tree, so every step draws the same;
            `topk_as_sampled`: children are the draft's best, judged by the p/q rule;
            `dropped_duplicates`: a token that was drawn twice is tried once;
            `inverted_top_p`: the sampler keeps the tail instead of the nucleus;
            `boolean_mask`: the tree mask is added to the scores as 1 and 0.
    """
    with ExitStack() as stack:
        for target, name, replacement in _BUGS[bug]():
            stack.enter_context(patch.object(target, name, replacement))
        yield


def _noise_reused() -> list[tuple[Any, str, Any]]:
    def uniform(self: DecodeState, purpose: Any, depth: int, draws: int = 1) -> Tensor:
        place = torch.full_like(self.lengths, depth)
        return self.noise.uniform(purpose, self.request, place, draws)

    def exponential(self: DecodeState, purpose: Any, depth: int, size: int) -> Tensor:
        place = torch.full_like(self.lengths, depth)
        return self.noise.exponential(purpose, self.request, place, size)

    return [(DecodeState, "uniform", uniform), (DecodeState, "exponential", exponential)]


def _topk_as_sampled() -> list[tuple[Any, str, Any]]:
    def best(law: Tensor, width: int, state: DecodeState, depth: int) -> Tensor:
        return law.topk(width, dim=-1).indices

    def best_drawn(law: Tensor, noise: Tensor) -> Tensor:
        return law.topk(noise.shape[-1], dim=-1).indices

    right_law, right_rule = rules._law_of, rules.rule_for

    def law_of(visit: rules.Visit, draw: Tensor) -> Tensor:
        if visit.tree.law is None:
            return torch.full_like(visit.law, 1 / visit.law.shape[-1])
        return right_law(visit, draw)

    def rule_for(rule: Rule | str, drafter: Drafter, sampler: Sampler) -> AcceptanceRule:
        right = right_rule(rule, drafter, sampler)
        lookup = drafter.proposal is Proposal.POINT_MASS and not sampler.greedy
        return MultiStepRule() if lookup else right

    return [
        (choosing, "drawn", best_drawn),
        (choosing, "draw_without_replacement", best),
        (rules, "_law_of", law_of),
        (checks, "rule_for", rule_for),
    ]


def _dropped_duplicates() -> list[tuple[Any, str, Any]]:
    def draw(self: TokenTree, at: Tensor, index: int) -> Tensor:
        if self.draws is None:
            parents, tokens, valid = self.parents, self.tokens, self.valid
        else:
            parents, tokens = self.draws.parents, self.draws.nodes
            valid = parents >= 0
        siblings = parents[:, :, None] == parents[:, None, :]
        same = siblings & (tokens[:, :, None] == tokens[:, None, :])
        again = same.tril(-1).any(-1)
        found = valid & ~again & (parents == at[:, None])
        return (found & (found.cumsum(-1) == index + 1)).int().argmax(-1)

    return [(TokenTree, "draw", draw)]


def _inverted_top_p() -> list[tuple[Any, str, Any]]:
    from fivefold_lm import sampling

    def tail(scores: Tensor, p: float) -> Tensor:
        falling, order = scores.sort(descending=True)
        cut = falling.softmax(-1).cumsum(-1) <= 1 - p
        cut[:, -1:] = False
        return scores.masked_fill(cut.scatter(1, order, cut), -torch.inf)

    return [(sampling, "top_p", tail)]


def _boolean_mask() -> list[tuple[Any, str, Any]]:
    from fivefold_lm import TreeForward

    right = TreeForward._masks

    def masks(self: TreeForward, cache: Any, visible: Tensor) -> Tensor | dict[str, Tensor]:
        made = right(self, cache, visible)
        if isinstance(made, dict):
            return {kind: (mask == 0).to(mask.dtype) for kind, mask in made.items()}
        return (made == 0).to(made.dtype)

    return [(TreeForward, "_masks", masks)]


_BUGS: dict[str, Callable[[], list[tuple[Any, str, Any]]]] = {
    "noise_reused": _noise_reused,
    "topk_as_sampled": _topk_as_sampled,
    "dropped_duplicates": _dropped_duplicates,
    "inverted_top_p": _inverted_top_p,
    "boolean_mask": _boolean_mask,
}


def _assert(check: Check) -> None:
    assert check.passed, f"{check.name}: {check.detail}"


__all__ = [
    "PROMPTS",
    "SEEDED_BUGS",
    "CorrectorSuite",
    "DrafterSuite",
    "NoCorrection",
    "PlainDrafter",
    "RuleSuite",
    "planted",
]
