"""What SpecExec offers the planner: budgets, what they promise and what they cost. No torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import product

from fivefold_speculative import AcceptanceSource, Candidate, Profile, Proposal

from .config import SpecExecConfig

_KINDS = ("independent", "feature_head")


def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]:
    """Offer budgets of 2, 4, 8, … nodes for each draft and kind that there is.

    Args:
        profile: what passes cost.
        acceptance: how often the k-th best child of a draft is the target's token.
    """
    found = []
    for draft, kind in product(profile.drafts, _KINDS):
        vector = acceptance(draft, kind, Proposal.POINT_MASS)
        if vector is None:
            continue
        budget = 2
        while budget <= profile.max_nodes:
            config = SpecExecConfig(kind=kind, budget=budget)
            tokens, widths = expected(vector.probs, config)
            drafting = sum(profile.draft(draft, kind, width) for width in widths)
            seconds = drafting + profile.target(budget) + profile.overhead
            settings = {**profile.drafts[draft], "kind": kind, "budget": budget}
            found.append(Candidate(settings, tokens, seconds, budget))
            budget *= 2
    return found


def expected(probs: Sequence[float], config: SpecExecConfig) -> tuple[float, list[int]]:
    """Return the expected tokens of a step, and the nodes that each of its draft passes runs.

    The search is played on the tree whose k-th child stands with probability `probs[k]` under
    every node. A node's chance to stand is the product along its path, and the tokens of a step are
    the sum over nodes, the root's 1 being the token that follows. A tree that is grown anew suits
    its own context better than this average one: the estimate is a lower one.

    Args:
        probs: positional acceptance of the draft.
        config: budget and limits.
    """
    decay = math.log(config.decay)
    edges = [math.log(p) + decay for p in probs[: config.branch] if p > 0]
    floor = -math.inf if config.min_logp is None else config.min_logp
    best: list[tuple[float, int]] = [(0.0, 0)]  # score and minus depth, least first
    waiting = [(0.0, 0)]
    widths = []
    for _ in range(config.max_iters):
        least = best[0][0] if len(best) == config.budget else -math.inf
        useful = [node for node in waiting if node[0] + decay > least]
        front = heapq.nlargest(config.frontier, useful)
        if not front:
            break
        widths.append(len(front))
        children = [
            (score + edge, depth - 1)
            for score, depth in front
            for edge in edges
            if score + edge >= floor
        ]
        best = sorted(heapq.nlargest(config.budget, best + children))
        rest = heapq.nlargest(len(useful), useful)[len(front) :]
        waiting = heapq.nlargest(config.budget, rest + children)  # more could not all matter
    return sum(math.exp(score + depth * decay) for score, depth in best), widths
