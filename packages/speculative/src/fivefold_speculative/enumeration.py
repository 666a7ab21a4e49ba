"""The exact law that an acceptance rule emits at one node, over all draws and all coins.

For each tuple of children x_1..x_k the rule is run with chosen coins. It accepts child j exactly
when coin j is below some a_j (given that those before were rejected), and a_j is found by
bisection; the law after all were rejected is read where it is drawn from. Then

    out(t) = sum over tuples of pr(tuple) [ sum_j (prod_{i<j} (1 - a_i)) a_j [x_j = t]
                                            + (prod_i (1 - a_i)) residual(t) ]

must be the target's law. `pr(tuple)` follows from the kind of proposal by arithmetic written here,
independently of the rules. Children may come from one law each, as those of several drafts do, and
`tree_of` may build the tree in another way than one node a child.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from fivefold_lm import Purpose, RandomStream, Rows, Sampler, SamplingConfig
from torch import Tensor

from ._words import Proposal, Rule
from .rules import AcceptanceRule
from .state import DecodeState
from .topology import TreeTopology
from .tree import DraftLaw, TokenTree

Drawn = list[tuple[tuple[int, ...], float]]
"""Tuples of children and their probabilities."""
TreeOf = Callable[[Tensor, Tensor], TokenTree]
"""(children [row, child], laws [row, child, vocab]) -> trees with those children of the root."""
_BISECTIONS = 45
_VOCAB = 4


def rule_law_error(
    rule: AcceptanceRule, proposal: Proposal, children: int, cases: int = 40, seed: int = 0
) -> float:
    """Return the largest deviation of the emitted law from the target's, over random laws.

    Args:
        rule: the rule under examination.
        proposal: how its children come about.
        children: number of children, at most 4.
        cases: pairs of laws.
        seed: of the laws.
    """
    target, draft = random_laws(cases, seed)
    if rule.name is Rule.GREEDY:
        target = np.eye(_VOCAB)[target.argmax(1)]
    emitted, _ = emitted_law(rule, proposal, children, target, draft)
    return float(np.abs(emitted - target).max())


def random_laws(cases: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of laws over 4 tokens: dense, with zeros, one-hot, equal, disjoint."""
    rng = np.random.default_rng(seed)
    target, draft = rng.dirichlet(np.full(_VOCAB, 0.7), (2, cases))
    for law in (target, draft):
        cut = rng.random((cases, _VOCAB)) < 0.3
        cut[: cases // 3] = False
        cut[np.arange(cases), law.argmax(1)] = False
        law[cut] = 0
    draft[0], draft[1] = np.eye(_VOCAB)[2], target[1]
    target[2], draft[2] = [0.5, 0.5, 0, 0], [0, 0, 0.3, 0.7]
    target[3] = np.eye(_VOCAB)[1]
    return target / target.sum(1, keepdims=True), draft / draft.sum(1, keepdims=True)


def emitted_law(
    rule: AcceptanceRule,
    proposal: Proposal,
    children: int,
    target: np.ndarray,
    draft: np.ndarray,
    drawn: Sequence[Drawn] | None = None,
    tree_of: TreeOf | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the law of the emitted token and the probability that some child stands.

    Args:
        rule: the rule under examination.
        proposal: how its children come about.
        children: number of children.
        target: target laws, [case, vocab].
        draft: draft laws, [case, vocab], or one for each child, [case, child, vocab].
        drawn: the children of each case, where they come about in another way.
        tree_of: builds the trees; `None`: one node a child.
    """
    drawn = drawn or [draws(proposal, children, law) for law in draft]
    case = np.array([i for i, some in enumerate(drawn) for _ in some])
    tuples = torch.tensor([draw for some in drawn for draw, _ in some])
    weight = np.array([chance for some in drawn for _, chance in some])
    node = _Node(rule, torch.tensor(target[case]), torch.tensor(draft[case]), tuples, tree_of)
    emitted = np.zeros_like(target)
    accepted = np.zeros(len(target))
    if rule.name in (Rule.GREEDY, Rule.LOOKUP):
        for token in range(target.shape[1]):
            law, found, stands = node.looked_up(token)
            chance = weight * law[:, token]
            np.add.at(emitted, (case, found), chance)
            np.add.at(accepted, case, chance * stands)
        return emitted, accepted
    left = weight.copy()
    for place in range(children):
        chance = left * node.threshold(place)
        np.add.at(emitted, (case, tuples[:, place].numpy()), chance)
        np.add.at(accepted, case, chance)
        left = left - chance
    residual = node.residual()
    np.add.at(emitted, case, left[:, None] * np.where(left[:, None] > 0, residual, 0))
    return emitted, accepted


def draws(proposal: Proposal, children: int, law: np.ndarray) -> Drawn:
    """Return every tuple of children and its probability under a kind of proposal.

    Args:
        proposal: how children come about.
        children: how many.
        law: what they are drawn from, [vocab]; for independent draws also [child, vocab].
    """
    vocab = range(law.shape[-1])
    if proposal is Proposal.POINT_MASS:  # chosen without chance: any choice will do
        best = np.argsort(-law, kind="stable")[:children]
        return [(tuple(int(token) for token in best), 1.0)]
    if proposal is Proposal.SAMPLED:
        laws = np.broadcast_to(law, (children, law.shape[-1]))
        chances = [
            (some, float(np.prod(laws[np.arange(children), list(some)])))
            for some in itertools.product(vocab, repeat=children)
        ]
        return [(some, chance) for some, chance in chances if chance > 0]
    found = []
    for some in itertools.permutations(vocab, children):
        chance, left = 1.0, law.copy()
        untried = np.ones(len(law))
        for token in some:
            rest = left if left.sum() > 0 else untried
            chance *= rest[token] / rest.sum()
            left[token] = untried[token] = 0
        if chance > 0:
            found.append((some, chance))
    return found


@dataclass
class _Node:
    """One node a row, with its children, judged by a rule whose coins are chosen."""

    rule: AcceptanceRule
    target: Tensor
    draft: Tensor
    children: Tensor
    tree_of: TreeOf | None = None

    def threshold(self, place: int) -> np.ndarray:
        """Return the largest coin with which a child stands, those before it rejected."""
        low = torch.zeros(len(self.target), dtype=torch.float64)
        high = torch.ones_like(low)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            stands = self._judge(place, middle)[0]
            low, high = torch.where(stands, middle, low), torch.where(stands, high, middle)
        return ((low + high) / 2).numpy()

    def residual(self) -> np.ndarray:
        """Return the law drawn from after all children were rejected."""
        return self._judge(self.children.shape[1], torch.zeros(len(self.target)))[1].numpy()

    def looked_up(self, token: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Let the target's draw be `token`; return its law, what was emitted, if a child stands."""
        wanted = torch.full((len(self.target),), token)
        seen = []

        def draw(law: Tensor, noise: Tensor) -> Tensor:
            seen.append(law)
            return wanted

        with patch.object(Sampler, "draw", staticmethod(draw)):
            accepted = self.rule.accept(*self._inputs(torch.zeros(self.children.shape)))
        law = seen[0] if seen else self.target  # greedy: one-hot, and nothing is drawn
        return law.numpy(), accepted.tokens[:, 0].numpy(), (accepted.count > 1).numpy()

    def _judge(self, place: int, coin: Tensor) -> tuple[Tensor, Tensor]:
        """Reject the children before `place`, give it a coin; return its fate and the residual."""
        width = self.children.shape[1] + 1
        coins = torch.full((len(coin), width), 1.0, dtype=torch.float64)
        coins[:, place] = coin
        seen = []

        def draw(law: Tensor, noise: Tensor) -> Tensor:
            seen.append(law)
            return torch.zeros(len(law), dtype=torch.long)

        with patch.object(Sampler, "draw", staticmethod(draw)):
            accepted = self.rule.accept(*self._inputs(coins))
        if place == self.children.shape[1]:
            return accepted.count > 1, seen[0]
        # Where the same token stood at an earlier place, nothing is left for this one.
        stands = accepted.tokens[:, 0] == self.children[:, place]
        return stands & (accepted.count > 1), seen[0]

    def _inputs(self, coins: Tensor) -> tuple[TokenTree, Rows, DecodeState]:
        batch, children = self.children.shape
        laws = self.draft if self.draft.ndim == 3 else self.draft[:, None].expand(-1, children, -1)
        tree = (self.tree_of or _one_each)(self.children, laws)
        logits = self.target[:, None].expand(-1, tree.num_nodes, -1)
        sampler = Sampler(SamplingConfig(temperature=1.0), vocab_size=self.target.shape[1])
        sampler.law = lambda logits, history=None: logits  # type: ignore[method-assign]
        lengths = torch.ones(batch, dtype=torch.long)
        state = DecodeState(
            tokens=torch.zeros(batch, 8, dtype=torch.long),
            lengths=lengths,
            active=lengths > 0,
            request=lengths,
            noise=_Coins(coins),
            sampler=sampler,
            history=None,
            alive=True,
        )
        return tree, Rows(logits, None), state


def _one_each(children: Tensor, laws: Tensor) -> TokenTree:
    """Return trees with one node a child."""
    batch, count = children.shape
    tree = TokenTree.rooted(torch.zeros(batch, dtype=torch.long), TreeTopology.expansion([count]))
    tree.fill(range(1, 1 + count), children)
    places = torch.arange(-1, count).clamp(min=0)[None]
    is_mixed = not bool((laws == laws[:, :1]).all())
    tree.law = DraftLaw(laws, places, None, laws.shape[-1], is_mixed)
    return tree


class _Coins(RandomStream):
    """Noise that was chosen beforehand."""

    def __init__(self, coins: Tensor) -> None:
        super().__init__(0)
        self._coins = coins

    def uniform(self, purpose: Purpose, request: Any, position: Any, draws: int = 1) -> Tensor:
        """Return the chosen coins for acceptance, and one half for all else."""
        if purpose is Purpose.ACCEPT:
            return self._coins[:, :draws]
        return torch.full((len(request), draws), 0.5, dtype=torch.float64)
