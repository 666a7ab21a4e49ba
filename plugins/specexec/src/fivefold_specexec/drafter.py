"""SpecExec's drafter: grow the tree with the draft, remember what of it the draft has run."""

from __future__ import annotations

import torch
from fivefold_lm import Capability, Purpose
from fivefold_speculative import (
    DecodeState,
    DraftKind,
    DraftModel,
    Proposal,
    Session,
    StepOutcome,
    TokenTree,
    TreeTopology,
)
from fivefold_speculative.drafters.feature_head import FeatureHeadDrafter
from fivefold_speculative.drafters.model_tree import ModelTreeDrafter
from fivefold_speculative.session import along
from jaxtyping import Float, Float64
from torch import Tensor

from .config import SpecExecConfig
from .growth import Frontier, Growth, frontier_widths
from .planning import candidates
from .scoring import Children, Words, best_children, likely_draws

__all__ = ["BestFirstDrafter", "SpecExecDrafter", "SpecExecHeadDrafter", "build", "candidates"]


class BestFirstDrafter(ModelTreeDrafter):
    """Propose the most probable tree of a budget; the target runs it, and the text walks through.

    Whatever the tree is, the target's own sampler draws every token, with the noise of its
    position: the text is that of plain sampling with the same seed (paper, section 4.1).

    Nodes are run by the draft in the order in which they were expanded, whatever their places in
    the tree, and pending ones lie in its cache in this order, behind the late tokens.

    Args:
        draft: the draft model.
        config: budget and limits.
        session: what the tree is for.
    """

    def __init__(self, draft: DraftModel, config: SpecExecConfig, session: Session) -> None:
        # No shape is fixed: of a static tree there is the root alone.
        super().__init__(draft, TreeTopology.root(), Proposal.POINT_MASS, session.sampler)
        self.config = config
        self._session = session
        self._expanded = torch.zeros(0, 0, dtype=torch.long)
        self._order = Words.of(draft.vocab_ids)

    def propose(self, state: DecodeState) -> TokenTree:
        """Grow the best tree, one draft pass a frontier."""
        self._session.prefetch_target()
        noise = self._noise(state)
        growth = Growth(self.config, state.last_token, state.active)
        logits, hidden = self._run_late()
        self._remember(hidden, begin=True)
        self._expand(growth, growth.root(), logits, noise)
        while (frontier := growth.frontier()) is not None:
            logits, hidden = self._run_frontier(frontier)
            self._remember(hidden)
            self._expand(growth, frontier, logits, noise)
        tree = growth.tree()
        self._expanded = growth.expanded[:, : tree.num_nodes]
        return tree

    def _expand(
        self, growth: Growth, frontier: Frontier, logits: Tensor, noise: Tensor | None
    ) -> None:
        words, logp = self._children(frontier, logits, noise)
        ids = self.draft.vocab_ids
        growth.add(frontier, words if ids is None else ids[words], logp)

    def _children(self, frontier: Frontier, logits: Tensor, noise: Tensor | None) -> Children:
        branch, error = self.config.branch, self.config.logit_error
        if error is None:
            return best_children(logits, branch)
        if noise is None:
            return best_children(logits / error, branch)
        uniform = noise.gather(1, frontier.depths)
        return likely_draws(logits, uniform, branch, error, self.sampler, self._order)

    def _noise(self, state: DecodeState) -> Float64[Tensor, "batch depth"] | None:
        """Return the numbers by which the target draws below each depth, where the tree needs them.

        Rules that judge children by coins of their own draw nothing by these numbers, so that a
        tree that depends on them stays independent of what judges it.
        """
        if self.config.logit_error is None or self.sampler.greedy:
            return None
        return state.uniform_by_level(Purpose.TARGET, self.config.most_passes + 1)

    def _run_frontier(self, frontier: Frontier) -> tuple[Tensor, Tensor | None]:
        """Run nodes below the late tokens; return what follows each."""
        width, late = frontier.tokens.shape[1], self._late.shape[1]
        order = torch.arange(late, device=frontier.tokens.device)
        newest = (order < self._num_late[:, None])[:, None].expand(-1, width, -1)
        visible = torch.cat([newest, frontier.seen], dim=2)
        depths = (self._num_late - 1)[:, None] + frontier.depths
        return self._run(frontier.tokens, self._features_of(frontier), depths, visible, None)

    def _remember(self, hidden: Tensor | None, begin: bool = False) -> None:
        """Take note of the draft's hidden states at what it ran; an independent one needs none."""

    def _features_of(self, frontier: Frontier) -> Tensor | None:
        """Return the features beside nodes; an independent draft reads none."""
        return None

    def _room(self) -> int:
        """Return the slots of a step: late tokens, all frontiers, and one more path."""
        levels = self.config.most_passes + 1
        return max(self.num_late, levels) + sum(frontier_widths(self.config)) + levels


class SpecExecDrafter(BestFirstDrafter):
    """Best-first trees of an independent draft, which keeps what it ran of the accepted path.

    A node has children only if it was run: of a path, all but perhaps the last node stay in the
    cache, and the tokens that are missing there are run first in the next step.
    """

    def observe(self, outcome: StepOutcome) -> None:
        """Keep the accepted nodes that were run; remember the tokens that were not."""
        path, count = outcome.accepted.path, outcome.accepted.count
        late, levels = self._late.shape[1], path.shape[1]
        places = torch.arange(levels, device=path.device)
        number = self._expanded.gather(1, path)  # 0: the root, a late token; -1: not run
        run = ((number > 0) & (places < count[:, None])).sum(1)
        # What is committed, in the order of the text: late tokens, then nodes of the path.
        order = torch.arange(min(late + levels - 1, self.cache.pending), device=path.device)
        step = order - self._num_late[:, None] + 1  # place on the path; 0 or less: a late token
        node = late - 1 + number.gather(1, step.clamp(0, levels - 1)).clamp(min=1)
        kept = torch.where(count > 0, self._num_late + run, 0)
        self.cache.keep(torch.where(step <= 0, order, node), kept)
        # Tokens emitted by the path's nodes: the first `run` are of nodes that were run.
        missing = run[:, None] + places[: self.num_late]
        self._late = outcome.accepted.tokens.gather(1, missing.clamp(max=levels - 1))
        self._num_late = (count - run).clamp(min=1)


class SpecExecHeadDrafter(BestFirstDrafter, FeatureHeadDrafter):
    """Best-first trees of a feature head; a node reads the head's hidden state of its parent.

    What was run in a tree is forgotten: committed tokens are run with the target's own states.
    """

    _hidden: Float[Tensor, "batch expanded hidden"]

    def _remember(self, hidden: Tensor | None, begin: bool = False) -> None:
        assert hidden is not None
        self._hidden = hidden if begin else torch.cat([self._hidden, hidden], 1)

    def _features_of(self, frontier: Frontier) -> Tensor:
        return along(self._hidden, frontier.parents)


def build(config: SpecExecConfig, session: Session) -> BestFirstDrafter:
    """Build `drafting=specexec`.

    Raises:
        UserError: the draft does not fit the target, or the target cannot verify a tree.
    """
    session.model.require(Capability.TREE_ATTENTION)
    session.require_room(config.budget, "drafting.budget")
    session.reserve(config.budget)
    session.chunk_head(config.head_chunk(session.batch, session.model.vocab_size))
    draft = session.load_draft(config.source, DraftKind(config.kind))
    if config.kind == DraftKind.INDEPENDENT:
        return SpecExecDrafter(draft, config, session)
    session.model.require(Capability.HIDDEN_STATES)
    return SpecExecHeadDrafter(draft, config, session)
