"""The method: measure, plan, fill the tree level by level, look again while decoding."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from fivefold_lm import Capability
from fivefold_speculative import (
    AcceptanceSource,
    AcceptanceVector,
    Candidate,
    DecodeState,
    DraftKind,
    DraftModel,
    Profile,
    Proposal,
    Session,
    StepOutcome,
    TokenTree,
    TreeTopology,
    remembered_acceptance,
    step_seconds,
)
from fivefold_speculative.acceptance import FALLBACK
from fivefold_speculative.drafters.feature_head import FeatureHeadDrafter
from fivefold_speculative.drafters.model_tree import (
    ModelTreeDrafter,
    check_widths,
    draft_sampler,
)
from fivefold_speculative.measuring import measured_elsewhere
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .config import DEFAULT_LEVELS, DEFAULT_NODES, KINDS, SequoiaConfig
from .counting import AcceptanceCounts, updated
from .planning import Law, all_best, plan, smoothed
from .remembering import planned_once

BUDGETS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
_MOST_LEVELS = 16


class SequoiaDrafter:
    """Sequoia: a static tree, planned for the draft's acceptance, filled without replacement.

    The tree is the same at every step, until what was accepted meanwhile says that another one is
    better. It is exchanged between two steps, and depends on nothing but coins and draws of
    positions that are written: never on what the coming step draws.

    Args:
        inner: fills the tree level by level.
        replanner: looks at what is accepted; `None`: the tree stays.
    """

    def __init__(self, inner: ModelTreeDrafter, replanner: Replanner | None = None) -> None:
        self.inner = inner
        self.replanner = replanner

    @property
    def proposal(self) -> Proposal:
        """How children come about."""
        return self.inner.proposal

    @property
    def needs_hidden(self) -> bool:
        """Whether the draft reads the target's hidden states."""
        return self.inner.needs_hidden

    @property
    def topology(self) -> TreeTopology:
        """The tree of the next step."""
        return self.inner.topology

    def start(self, session: Session) -> None:
        """Read the prompts; look at what was accepted in those before."""
        self._look(at_start=True)
        self.inner.start(session)

    def propose(self, state: DecodeState) -> TokenTree:
        """Fill the tree."""
        self._look()
        self._tree = self.inner.propose(state)
        return self._tree

    def observe(self, outcome: StepOutcome) -> None:
        """Keep what stood; count it."""
        self.inner.observe(outcome)
        if self.replanner is not None:
            self.replanner.count(outcome, self._tree.valid.sum(1) > 1)

    def _look(self, at_start: bool = False) -> None:
        if self.replanner is None:
            return
        tree = self.replanner.better_tree(at_start)
        if tree is not None:
            self.inner.reshape(tree)


class Replanner:
    """Plans anew when the tree yields less than it was planned for.

    Args:
        vector: what the tree was planned with.
        topology: the tree.
        levels: most levels of another one.
        config: how often to look, and from what loss on to plan.
        counts: what was accepted in this tree.
    """

    def __init__(
        self,
        vector: AcceptanceVector,
        topology: TreeTopology,
        levels: int,
        config: SequoiaConfig,
        counts: AcceptanceCounts,
    ) -> None:
        self._vector = vector
        self._topology = topology
        self._levels = levels
        self._config = config
        self._counts = counts
        self._planned = vector.expected_tokens(topology)
        self._steps = 0

    def count(self, outcome: StepOutcome, drafted: Bool[Tensor, " batch"]) -> None:
        """Count a step, on the device."""
        self._counts.add(outcome, drafted)
        self._steps += 1

    def better_tree(self, at_once: bool = False) -> TreeTopology | None:
        """Return another tree if it is time to look and the tree has lost; else `None`.

        The counts are brought to the host only when it is time.

        Args:
            at_once: look if anything was counted, however few steps ago.
        """
        if self._steps < (1 if at_once else self._config.replan_every):
            return None
        self._steps = 0
        vector = updated(self._vector, *self._counts.read())
        self._counts.fade()
        if vector.expected_tokens(self._topology) >= self._planned * (1 - self._config.replan):
            return None
        tree = plan(vector, self._topology.num_nodes, self._levels, self._config.branch)
        self._vector, self._planned = vector, vector.expected_tokens(tree)
        if tree == self._topology:
            return None
        self._topology = tree
        self._counts.reshape(tree)
        return tree


def build(config: SequoiaConfig, session: Session) -> SequoiaDrafter:
    """Build `drafting=sequoia`.

    Raises:
        UserError: the draft does not fit the target, a file holds no tree or no vector, or the
            target cannot verify the tree.
    """
    kind = DraftKind(config.kind)
    if kind is DraftKind.FEATURE_HEAD:
        session.model.require(Capability.HIDDEN_STATES)
    draft = session.load_draft(config.source, kind)
    vector, topology, setting = None, config.given_tree(), "drafting.topology"
    if topology is None:
        vector, setting = acceptance_of(config, session, draft), "drafting.nodes"
        branch = min(config.branch or len(vector.probs), draft.num_words)
        config = replace(config, branch=branch)
        nodes, levels = config.nodes or DEFAULT_NODES, config.levels or DEFAULT_LEVELS
        topology = planned_once(vector, nodes, levels, branch, session.say)
    session.require_room(topology.num_nodes, setting)
    session.require(topology, setting)
    check_widths(topology, draft, setting)
    fill = FeatureHeadDrafter if kind is DraftKind.FEATURE_HEAD else ModelTreeDrafter
    inner = fill(
        draft,
        topology,
        config.chosen_proposal(session.sampler.greedy),
        draft_sampler(config, session, draft),
    )
    if vector is None or config.replan == 0:
        return SequoiaDrafter(inner)
    counts = AcceptanceCounts(topology, len(vector.probs), session.model.device)
    return SequoiaDrafter(inner, Replanner(vector, topology, levels, config, counts))


def acceptance_of(config: SequoiaConfig, session: Session, draft: DraftModel) -> AcceptanceVector:
    """Return the vector to plan with: from a file, the usual one, or measured once.

    Where the text of prompts cannot be read, as inside `model.generate`, the usual one is taken.

    Raises:
        UserError: a file that holds no vector.
    """
    vector = config.given_vector()
    if vector is not None:
        _compare(vector, config, session, draft)
    if vector is None and type(session.model.tokenizer) is PreTrainedTokenizerBase:
        session.say("no tokenizer to measure the draft with: a usual acceptance vector is taken")
        vector = AcceptanceVector(FALLBACK)
    if vector is None:
        vector = remembered_acceptance(
            session.model,
            draft,
            session.sampler,
            config.chosen_proposal(session.sampler.greedy),
            config.width,
            online=config.measure == "online",
            draft_temperature=config.temperature,
            attention=session.attention,
            say=session.say,
        )
    if not config.ranked:
        vector = vector.plain()
    if config.smooth:
        vector = replace(vector, probs=smoothed(vector.probs), errors=(), ranked=None)
    return vector


def _compare(
    vector: AcceptanceVector, config: SequoiaConfig, session: Session, draft: DraftModel
) -> None:
    """Say so where a vector was measured on something else."""
    proposal = config.chosen_proposal(session.sampler.greedy)
    others = measured_elsewhere(
        vector, session.model, draft, session.sampler, proposal, config.temperature
    )
    note = (
        f"drafting.acceptance={config.acceptance} was measured with another {', '.join(others)}: "
        "a tree planned here would be better (drafting.acceptance=auto); the text is the same"
    )
    if others:
        session.say_once(note)


def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]:
    """Offer the planner, for each draft, kind and number of nodes, the best number of levels.

    (n, l) is worth best[n, l] tokens for the draft level by level, a target pass over n nodes and
    what a step costs beside them (paper, section 4). That nothing is worth it is the planner's to
    say: it compares with plain decoding.
    """
    proposal = Proposal.POINT_MASS if profile.greedy else Proposal.WITHOUT_REPLACEMENT
    found = []
    for draft, kind in product(profile.drafts, KINDS):
        vector = acceptance(draft, kind, proposal)
        if vector is not None:
            found += _candidates(profile, vector, draft, kind)
    return found


def _candidates(
    profile: Profile, vector: AcceptanceVector, draft: str, kind: str
) -> list[Candidate]:
    budgets = [nodes for nodes in BUDGETS if nodes <= max(profile.max_nodes, BUDGETS[0])]
    most = min(_MOST_LEVELS, budgets[-1])
    law = Law.plain(vector.probs)
    if vector.ranked is not None:
        usual = plan(vector, min(DEFAULT_NODES, budgets[-1]), most)
        law = Law.ranked(vector.ranked, vector.ranked.roots(usual))
    table = all_best(law, budgets[-1], most)
    found = []
    for nodes in budgets:
        offers = []
        for levels in range(2, min(most, nodes) + 1):
            if table.most_nodes(nodes, levels) < nodes:
                continue
            tree = table.tree(nodes, levels)
            seconds = step_seconds(profile, tree, draft, kind)
            settings = {**profile.drafts[draft], "kind": kind, "nodes": nodes, "levels": levels}
            offers.append(Candidate(settings, vector.expected_tokens(tree), seconds, nodes))
        found += sorted(offers, key=lambda offer: -offer.rate)[:1]
    return found
