"""`drafting=specinfer`: every draft fills a tree of its own, and one merged tree is verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from fivefold import UserError
from fivefold_lm import Capability, Sampler
from fivefold_speculative import (
    AcceptanceSource,
    Candidate,
    DecodeState,
    DraftKind,
    DraftLaw,
    DraftModel,
    Profile,
    Proposal,
    Session,
    StepOutcome,
    TokenTree,
    TreeTopology,
    step_seconds,
)
from fivefold_speculative.drafters.choosing import draw_apart
from fivefold_speculative.drafters.model_tree import ModelTreeDrafter, check_widths, draft_sampler
from fivefold_speculative.tree import SeveralLaws
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .budget import RowAcceptance, allot
from .config import SpecInferConfig
from .trie import Trie, merge

_WIDTHS: tuple[tuple[int, ...], ...] = (
    (1, 1),
    (1, 1, 1, 1),
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 1, 1),
    (2, 2, 1),
    (3, 2, 1, 1),
    (1, 1, 3, 1, 1, 1, 1, 1),
    (4, 2, 2, 1, 1),
)
"""What a planner is offered: chains, small and large trees, and the paper's own."""


class Member(ModelTreeDrafter):
    """One of the drafts: expands its own tree from the root (SpecInfer, section 3).

    Its draws are made apart from one another, since parents may be merged, and its cache follows
    the text also where the accepted path leaves its own tree.

    Args:
        draft: the draft model.
        topology: the shape of its tree.
        proposal: how children are chosen.
        sampler: makes its law.
        place: its number among the drafts.
        is_scored: keep how probable the draft finds each path (for children taken by `topk`).
    """

    def __init__(
        self,
        draft: DraftModel,
        topology: TreeTopology,
        proposal: Proposal,
        sampler: Sampler,
        place: int,
        is_scored: bool,
    ) -> None:
        super().__init__(draft, topology, proposal, sampler)
        self.num_late = topology.num_levels
        self.place = place
        self.is_scored = is_scored
        self._scores: list[Float[Tensor, "batch child"]] = []

    def expand(self, state: DecodeState, levels: int) -> TokenTree:
        """Fill the first levels of its tree."""
        self._scores = [torch.ones_like(state.lengths, dtype=torch.float)[:, None]]
        return super().expand(state, levels)

    def path_probs(self, parents: Int[Tensor, " own"]) -> Float[Tensor, "batch own"]:
        """Return how probable this draft finds the path to each node; 0 where none was filled."""
        chance = torch.zeros(len(self._scores[0]), len(parents), device=parents.device)
        for level, score in zip(self.topology.levels, self._scores, strict=False):
            span = slice(level.start, level.stop)
            above = chance[:, parents[span]] if level.start else 1.0
            chance[:, span] = score * above
        return chance

    def _choose(
        self, logits: Tensor, width: int, state: DecodeState, depth: int
    ) -> tuple[Tensor, Tensor | None]:
        if self.proposal is Proposal.SAMPLED:
            law = self.sampler.law(logits.flatten(0, 1), None).view_as(logits)
            return draw_apart(law, width, state, depth, self.place), law
        words = logits.topk(width, dim=-1).indices
        if self.is_scored:
            law = self.sampler.law(logits.flatten(0, 1), None).view_as(logits)
            self._scores.append(law.gather(-1, words).flatten(1))
        return words, None

    def _fill(
        self, tree: TokenTree, parents: Sequence[int], words: Int[Tensor, "batch parent child"]
    ) -> None:
        """Write a whole level: all its nodes have equally many children."""
        tokens = words if self.draft.vocab_ids is None else self.draft.vocab_ids[words]
        children = self.topology.children
        tree.fill(range(children[parents[0]].start, children[parents[-1]].stop), tokens.flatten(1))


class SpecInferDrafter:
    """SpecInfer: expand every draft, merge the trees, verify them in one pass.

    Args:
        members: the drafts, all with one topology.
        max_verify_tokens: most nodes of a pass in all rows together; `None`: no limit.
    """

    needs_hidden = False

    def __init__(self, members: Sequence[Member], max_verify_tokens: int | None = None) -> None:
        self.members = members
        self.topology = members[0].topology
        self.proposal = members[0].proposal
        self.budget = max_verify_tokens
        self._from: dict[int, tuple[list[Tensor], Tensor]] = {}

    def start(self, session: Session) -> None:
        """Let every draft read the prompts."""
        device = session.model.device
        self._rows = session.rows
        # Under greedy decoding children of a request's last token decide nothing; draws do, and
        # without them the text would depend on how many tokens were asked for.
        self._reach = 0 if session.sampler.greedy else 1
        ends = [row.left + len(row.tokens) for row in session.rows]
        self._ends = torch.tensor(ends, device=device)
        self._depths = torch.tensor(self.topology.depths, device=device)
        self._parents = torch.tensor(self.topology.parents, device=device).clamp(min=0)
        self._acceptances = [
            RowAcceptance(self.topology, session.batch, device)
            for _ in self.members
            if self.budget is not None and self.proposal is Proposal.SAMPLED
        ]
        for member in self.members:
            member.start(session)

    def propose(self, state: DecodeState) -> TokenTree:
        """Expand, merge, and keep within the budget."""
        levels, kept = self._wanted(state)
        drafted = [member.expand(state, levels) for member in self.members]
        vocab_size = state.sampler.vocab_size
        if self.budget is not None and self.proposal is Proposal.POINT_MASS:
            kept = self._likeliest(merge(drafted, kept, levels, vocab_size), state)
        trie = merge(drafted, kept, levels, vocab_size, self.budget)
        self._kept = kept
        self._trie, tree = trie, trie.tree
        if self.proposal is Proposal.SAMPLED:
            tree.law = self._law(drafted, levels)
        else:
            tree.draws = None  # chosen without chance: merging is the union of sets
        return tree

    def observe(self, outcome: StepOutcome) -> None:
        """Let every draft follow the accepted path as far as it is in its tree."""
        accepted = outcome.accepted
        known = torch.zeros_like(accepted.path, dtype=torch.bool)
        for place, member in enumerate(self.members):
            own_path = self._trie.own_path(place, accepted.path)
            member.follow(own_path, accepted)
            if self._acceptances:
                self._acceptances[place].learn(own_path, accepted.count, ~known, self._kept[place])
                known = known | (own_path > 0)

    # Which nodes take part.

    def _wanted(self, state: DecodeState) -> tuple[int, list[Bool[Tensor, "batch own"]]]:
        """Return how many levels to draft, and which own nodes of each draft to merge.

        Nodes too deep to decide what a request can still write take no part, and where that holds
        for all requests they are not drafted.
        """
        most = max(row.left for row in self._rows) - 1 + self._reach
        levels = max(1, min(self.topology.num_levels - 1, most))
        deepest = (self._ends - state.lengths - 1 + self._reach)[:, None]
        may = state.active[:, None] & (self._depths > 0) & (self._depths <= deepest)
        if not self._acceptances:
            return levels, [may] * len(self.members)
        chances = torch.cat([acceptance.chances() for acceptance in self._acceptances], 1)
        every = may.repeat(1, len(self.members))
        kept = list(allot(chances, every, self._nodes_left(state)).chunk(len(self.members), 1))
        if may.device.type == "cpu":  # asking is free there
            levels = max(1, *(int((own * self._depths).max()) for own in kept))
        return levels, kept

    def _likeliest(self, trie: Trie, state: DecodeState) -> list[Bool[Tensor, "batch own"]]:
        """Return the own nodes of the merged nodes that the budget pays for."""
        tree = trie.tree
        chance = torch.zeros(tree.tokens.shape, device=tree.tokens.device)
        for member, home in zip(self.members, trie.homes, strict=True):
            own = torch.where(home > 0, member.path_probs(self._parents), 0)
            chance = chance.scatter_reduce(1, home.clamp(min=0), own, "amax")
        paid = allot(chance, tree.valid & (tree.depths > 0), self._nodes_left(state))
        return [paid.gather(1, home.clamp(min=0)) & (home > 0) for home in trie.homes]

    def _nodes_left(self, state: DecodeState) -> Tensor:
        """Return the nodes that the budget has left once every active request has its root."""
        assert self.budget is not None
        return self.budget - state.active.sum()

    # The merged tree.

    def _law(self, drafted: Sequence[TokenTree], levels: int) -> DraftLaw | SeveralLaws:
        """Return the law of every draw of the merged tree."""
        if levels not in self._from:
            self._from[levels] = self._sources(levels)
        drawn_from, part_of = self._from[levels]
        parts = []
        for tree, source in zip(drafted, drawn_from, strict=True):
            assert isinstance(tree.law, DraftLaw)
            parts.append(replace(tree.law, drawn_from=source))
        return parts[0] if len(parts) == 1 else SeveralLaws(parts, part_of)

    def _sources(self, levels: int) -> tuple[list[Int[Tensor, "1 draw"]], Int[Tensor, " draw"]]:
        """Return, for every draw, its place among each draft's laws, and which draft made it."""
        own = [0]
        part_of = [0]
        inner = {node: place for place, node in enumerate(self.topology.inner)}
        for level in self.topology.levels[1 : levels + 1]:
            places = [inner[self.topology.parents[node]] for node in level]
            for part in range(len(self.members)):
                own += places
                part_of += [part] * len(places)
        device = self._depths.device
        drafts, source = torch.tensor(part_of, device=device), torch.tensor(own, device=device)
        each = [torch.where(drafts == p, source, 0)[None] for p in range(len(self.members))]
        return each, drafts


def build(config: SpecInferConfig, session: Session) -> SpecInferDrafter:
    """Build `drafting=specinfer`.

    Raises:
        UserError: a draft does not fit the target, or the target cannot verify the tree.
    """
    topology = config.shape()
    session.require(topology, "drafting")
    session.model.require(Capability.TREE_ATTENTION)  # chains of several drafts are a tree
    entries = config.entries()
    nodes = 1 + len(entries) * (topology.num_nodes - 1)
    if config.max_verify_tokens is not None:
        config.check_budget(session.batch)
        nodes = min(nodes, config.max_verify_tokens)
    session.require_room(nodes, config.shape_setting)
    session.reserve(nodes)
    proposal = config.chosen_proposal(session.sampler.greedy)
    members = []
    for place, entry in enumerate(entries):
        draft = _load(entry.draft, config, session)
        check_widths(topology, draft, config.shape_setting)
        own = replace(config, temperature=entry.temperature)
        sampler = draft_sampler(own, session, draft)
        is_scored = config.max_verify_tokens is not None
        members.append(Member(draft, topology, proposal, sampler, place, is_scored))
    return SpecInferDrafter(members, config.max_verify_tokens)


def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]:
    """Offer the trees of `_WIDTHS`, filled by one draft, to `drafting=auto`.

    What several drafts yield together no vector of one of them tells, so no merge is offered.

    Args:
        profile: what passes cost, and what may draft.
        acceptance: how often a draft is right.
    """
    kind = DraftKind.INDEPENDENT
    proposal = Proposal.POINT_MASS if profile.greedy else Proposal.SAMPLED
    offered = []
    vectors = {draft: acceptance(draft, kind, proposal) for draft in profile.drafts}
    for (draft, vector), widths in product(vectors.items(), _WIDTHS):
        topology = TreeTopology.expansion(widths)
        if vector is not None and topology.num_nodes <= profile.max_nodes:
            offered.append(
                Candidate(
                    settings={**profile.drafts[draft], "widths": list(widths)},
                    expected_tokens=vector.expected_tokens(topology),
                    seconds=step_seconds(profile, topology, draft, kind),
                    nodes=topology.num_nodes,
                )
            )
    return offered


def _load(name: str, config: SpecInferConfig, session: Session) -> DraftModel:
    try:
        return session.load_draft(config.source_of(name), DraftKind.INDEPENDENT)
    except UserError as error:
        if not config.drafts:
            raise
        raise error.located("drafting.drafts", name) from error
