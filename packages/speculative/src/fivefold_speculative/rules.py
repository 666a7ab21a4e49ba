"""Acceptance rules: which drafted tokens stand, and the token that follows them.

Every rule emits, at every node it visits, one token whose law is the target's law there: the
token of an accepted child, and the walk goes on at that child, or another one, and the walk ends.
Which proposals a rule is lossless for is in `_words.VALID_FOR`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from fivefold_lm import Purpose, Rows, Sampler
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torch.nn import functional

from ._words import VALID_FOR, Proposal, Rule, choose_rule
from .drafter import Drafter
from .outcome import Accepted
from .state import DecodeState
from .tree import TokenTree


@runtime_checkable
class AcceptanceRule(Protocol):
    """Decides how much of a tree stands.

    `valid_for` holds the proposals under which the text keeps the target's law.
    """

    @property
    def name(self) -> Rule:
        """Its word."""
        ...

    @property
    def valid_for(self) -> frozenset[Proposal]:
        """The proposals it is lossless for."""
        ...

    def accept(self, tree: TokenTree, rows: Rows, state: DecodeState) -> Accepted:
        """Return the accepted path of every row, without waiting for the device.

        Args:
            tree: what was proposed.
            rows: the target's logits at every node, [batch, node, vocab], or what makes them.
            state: sampler, noise and history before the tree.
        """
        ...


def rule_for(rule: Rule | str, drafter: Drafter, sampler: Sampler) -> AcceptanceRule:
    """Return the acceptance rule that a word means for a drafter and a sampler.

    Raises:
        UserError: the rule would not be lossless for this drafter or sampler.
    """
    return _RULES[choose_rule(rule, drafter.proposal, sampler.greedy)]()


class _WalkingRule:
    """Walk from the root; at each node let `step` choose a token and perhaps a child."""

    name: ClassVar[Rule]

    @property
    def valid_for(self) -> frozenset[Proposal]:
        """The proposals it is lossless for."""
        return VALID_FOR[self.name]

    def accept(self, tree: TokenTree, rows: Rows, state: DecodeState) -> Accepted:
        """Visit at most one node a level; only visited nodes' logits become laws."""
        node, alive, history = torch.zeros_like(tree.tokens[:, 0]), state.active, state.history
        path, tokens, visited = [], [], []
        for level, width in enumerate(tree.widths):
            law = state.sampler.law(rows.at(node), history)  # [batch, vocab]
            visit = Visit(tree, node, _normalised(law.double()), state, level, width)
            token, child = self.step(visit)
            path.append(torch.where(alive, node, 0))
            tokens.append(torch.where(alive, token, 0))
            visited.append(alive)
            if history is not None:
                history = history.with_tokens(token, alive)
            alive = alive & (child > 0)
            node = child
            if _none(alive):
                break
        count = torch.stack(visited, 1).sum(1)
        return Accepted(_filled(path, tree.levels), count, _filled(tokens, tree.levels))

    def step(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Return the emitted token and the child it belongs to, 0 where the walk ends."""
        raise NotImplementedError


@dataclass
class Visit:
    """One node a row, on the walk from the root.

    Args:
        tree: the whole tree.
        node: the node visited.
        law: the target's law after it, float64.
        state: noise and lengths.
        level: the node's depth.
        width: the most children it may have.
    """

    tree: TokenTree
    node: Int[Tensor, " batch"]
    law: Float64[Tensor, "batch vocab"]
    state: DecodeState
    level: int
    width: int

    @property
    def is_mixed(self) -> bool:
        """Whether siblings may have been drawn from different laws."""
        return self.tree.law is not None and self.tree.law.is_mixed

    def uniform(self, purpose: Purpose, draws: int = 1) -> Float64[Tensor, "batch draw"]:
        """Return fresh uniforms for the position of the token that this node emits.

        A position's noise is used up by the one node of the accepted path before it: a step that
        ended earlier has not looked at it, so the next step may draw the very same numbers.
        """
        return self.state.uniform(purpose, self.level, draws)


class GreedyRule(_WalkingRule):
    """Accept the child that equals the target's argmax. Source: SpecInfer, section 5."""

    name = Rule.GREEDY

    def accept(self, tree: TokenTree, rows: Rows, state: DecodeState) -> Accepted:
        """Take the argmax of all nodes at once when no penalty depends on the path."""
        if state.sampler.needs_history:
            return super().accept(tree, rows, state)
        if rows.logits is not None:
            return _follow(tree, rows.logits.argmax(-1), state)
        best = torch.cat([logits.argmax(-1) for _, logits in rows.chunks()])
        return _follow(tree, best.view_as(tree.tokens), state)

    def step(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Take the argmax of the law, which penalties may have moved."""
        token = visit.law.argmax(-1)
        return token, visit.tree.child_with(visit.node, token)


class LookupRule(_WalkingRule):
    """Draw the target's token first; a child that carries it stands.

    The token uses the noise that plain sampling uses at its position: same seed, same text,
    whatever the drafter. Source: SpecExec, arXiv 2406.02532, section 3.
    """

    name = Rule.LOOKUP

    def accept(self, tree: TokenTree, rows: Rows, state: DecodeState) -> Accepted:
        """Where logits are not all there, draw at every node inside its chunk of them.

        All nodes of one depth share the noise of their position; draws at nodes that are not
        reached are forgotten. Penalties depend on the path: with them only it is scored.
        """
        if rows.logits is not None or state.history is not None:
            return super().accept(tree, rows, state)
        noise = state.uniform_by_level(Purpose.TARGET, tree.levels)
        uniform = noise.gather(1, tree.depths.clamp(max=tree.levels - 1)).flatten()
        drawn = [
            Sampler.draw(_normalised(state.sampler.law(logits).double()), uniform[span])
            for span, logits in rows.chunks()
        ]
        return _follow(tree, torch.cat(drawn).view_as(tree.tokens), state)

    def step(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Draw by inverse CDF and look among the children."""
        token = Sampler.draw(visit.law, visit.uniform(Purpose.TARGET)[:, 0])
        return token, visit.tree.child_with(visit.node, token)


class _TryingRule(_WalkingRule):
    """Try the children one after another against what is left of the target's law.

    With R the residual law (P at first) and D the law of the next draw x:
    accept x with probability min(1, R(x) / D(x)); else R becomes max(R - D, 0), normalised.
    All rejected: the token is drawn from R. Rules differ in D.
    """

    def step(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Try `width` draws; residual and draft law change only where one was rejected."""
        residual, law = visit.law, self.first_law(visit)
        taken = torch.zeros_like(visit.node)
        coins = visit.uniform(Purpose.ACCEPT, max(visit.width, 1))
        for index in range(visit.width):
            draw = visit.tree.draw(visit.node, index)
            child = visit.tree.node_of(draw)
            trying = (taken == 0) & (child > 0)
            if _none(trying):
                break
            token = visit.tree.tokens.gather(1, child[:, None])  # [batch, 1]
            if index and visit.is_mixed:
                law = torch.where((taken == 0)[:, None], _law_of(visit, draw), law)
            draft = self.law_of(law, token)
            left = (residual - draft).clamp_(min=0)
            mass = left.sum(-1, keepdim=True)
            target_p, draft_p = residual.gather(1, token), draft.gather(1, token)
            stands = coins[:, index : index + 1] * draft_p < target_p
            # No residual means that the draw had the target's own law: it stands.
            stands = (stands | (mass <= 0))[:, 0]
            taken = torch.where(trying & stands, child, taken)
            rejected = (trying & ~stands)[:, None]
            residual = torch.where(rejected, left / mass, residual)
            law = torch.where(rejected, self.law_after(law, token, visit), law)
        last = Sampler.draw(residual, visit.uniform(Purpose.RESIDUAL)[:, 0])
        accepted = visit.tree.tokens.gather(1, taken[:, None])[:, 0]
        return torch.where(taken > 0, accepted, last), taken

    def first_law(self, visit: Visit) -> Tensor:
        """Return what `law_of` and `law_after` work on, one row a row of the batch."""
        raise NotImplementedError

    def law_of(self, law: Tensor, token: Tensor) -> Tensor:
        """Return the law of the draw that gave `token`."""
        return law

    def law_after(self, law: Tensor, token: Tensor, visit: Visit) -> Tensor:
        """Return the law after `token` was tried and rejected."""
        return law


class PointMassRule(_TryingRule):
    """Children chosen without chance: D is all on the child, so it stands with probability R(x)."""

    name = Rule.POINT_MASS

    def first_law(self, visit: Visit) -> Tensor:
        """Return zeros to put the point mass into."""
        return torch.zeros_like(visit.law)

    def law_of(self, law: Tensor, token: Tensor) -> Tensor:
        """Return the point mass on the child's token."""
        return law.scatter(1, token, 1.0)


class MultiStepRule(_TryingRule):
    """Multi-step speculative sampling: each draw has its own law. Source: SpecInfer, section 5.

    Only for children that were sampled; a token drawn twice is tried twice. The laws of siblings
    differ where several drafts made them.
    """

    name = Rule.MULTI_STEP

    def first_law(self, visit: Visit) -> Tensor:
        """Return the law of the first draw."""
        return _law_of(visit, visit.tree.draw(visit.node, 0))


class WithoutReplacementRule(_TryingRule):
    """Sequoia's rule: a tried token leaves the draft law. Source: arXiv 2402.12374, section 3.

    When nothing is left of the draft law, the next draw is uniform over what was not tried.
    """

    name = Rule.WITHOUT_REPLACEMENT

    def first_law(self, visit: Visit) -> Tensor:
        """Return the draft law under the node, -1 for tokens that the draft cannot propose."""
        if visit.width == 0:
            return torch.zeros_like(visit.law)
        assert visit.tree.law is not None
        law = _law_of(visit, visit.tree.draw(visit.node, 0))
        return torch.where(visit.tree.law.support(), law, -1.0)

    def law_of(self, law: Tensor, token: Tensor) -> Tensor:
        """Return the law of the next draw: what is left, or uniform over untried tokens."""
        left = law.clamp(min=0)
        untried = (law >= 0).double()
        return _normalised(torch.where(left.sum(-1, keepdim=True) > 0, left, untried))

    def law_after(self, law: Tensor, token: Tensor, visit: Visit) -> Tensor:
        """Mark the token as tried, by -1."""
        return law.scatter(1, token, -1.0)


def _none(rows: Bool[Tensor, " batch"]) -> bool:
    """Say that no row goes on, where asking is free: an accelerator would have to be waited for."""
    return rows.device.type == "cpu" and not bool(rows.any())


def _follow(tree: TokenTree, emitted: Int[Tensor, "batch node"], state: DecodeState) -> Accepted:
    """Walk from the root as long as a child carries the token that its parent emits."""
    node, alive = torch.zeros_like(tree.tokens[:, 0]), state.active
    path, tokens, visited = [], [], []
    for _ in tree.widths:
        token = emitted.gather(1, node[:, None])[:, 0]
        path.append(torch.where(alive, node, 0))
        tokens.append(torch.where(alive, token, 0))
        visited.append(alive)
        node = tree.child_with(node, token)
        alive = alive & (node > 0)
    count = torch.stack(visited, 1).sum(1)
    return Accepted(torch.stack(path, 1), count, torch.stack(tokens, 1))


def _filled(levels: list[Tensor], count: int) -> Int[Tensor, "batch level"]:
    """Return a walk's levels side by side, 0 for those it did not reach."""
    return functional.pad(torch.stack(levels, 1), (0, count - len(levels)))


def _normalised(law: Tensor) -> Tensor:
    return law / law.sum(-1, keepdim=True)


def _law_of(visit: Visit, draw: Tensor) -> Tensor:
    if visit.width == 0:
        return torch.zeros_like(visit.law)
    assert visit.tree.law is not None
    return _normalised(visit.tree.law.of(draw))


_RULES: dict[Rule, type[_WalkingRule]] = {
    rule.name: rule
    for rule in (GreedyRule, LookupRule, PointMassRule, MultiStepRule, WithoutReplacementRule)
}
