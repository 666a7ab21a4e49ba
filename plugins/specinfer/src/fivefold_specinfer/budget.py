"""A budget of verify tokens for a whole batch, spent where a node is likeliest to be reached.

A node's marginal value is its chance to stand: what it adds to the expected tokens of a pass. The
nodes with the highest chances of all requests together are the best use of a budget, and since a
node is never likelier than its parent they form trees.

What may the chances be made of? Multi-step sampling keeps the target's law only if the number of
draws at a node does not depend on the tokens drawn there. So

- children chosen without chance (`topk`) may be pruned by anything that the text determines; the
  draft's own probabilities are taken, after drafting;
- draws are allotted before any is made, from how often earlier draws of the request stood
  (`RowAcceptance`). These are counted at nodes that a walk has visited. The numbers behind deeper
  draws, which no walk reached, are drawn again at the next step, and nothing may have looked at
  them: not even the allotment of another request, which comes back to this one by the budget.
  Therefore draft probabilities of drawn tokens are not used at all.

Given everything that decides a node's draws, they are independent with the draft's law, and the
rule emits the target's law there. By induction over positions each request's text has the
target's joint law for every fixed noise of its batch mates, so texts stay independent as well.
"""

from __future__ import annotations

import torch
from fivefold_speculative import TreeTopology
from fivefold_speculative.acceptance import FALLBACK
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

_PRIOR = 8.0
"""Draws that the assumed acceptance counts as; after so many the request's own count as much."""
_MEMORY = 0.97
"""What a step leaves of earlier counts: texts change, and who was given no draws is tried again."""


def allot(
    chance: Float[Tensor, "batch node"], may: Bool[Tensor, "batch node"], budget: Tensor
) -> Bool[Tensor, "batch node"]:
    """Choose the nodes of all rows with the highest chances; ties go to the first row and node.

    Args:
        chance: of each node to stand, never above its parent's; a parent comes before its child.
        may: nodes to choose from; with a node its parent.
        budget: how many to take at most.
    """
    flat = torch.where(may, chance, -1).flatten()
    order = flat.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=flat.device))
    return (rank < budget).view_as(may) & may


class RowAcceptance:
    """How often the draws of one draft stood of late in each request, by place among siblings.

    Args:
        topology: the draft's tree.
        batch: requests.
        device: where they are counted.
    """

    def __init__(self, topology: TreeTopology, batch: int, device: torch.device) -> None:
        self.topology = topology
        self.places = torch.tensor(topology.child_index, device=device)
        self.parents = torch.tensor(topology.parents, device=device)
        self.children = _child_table(topology, device)
        prior = [_assumed(place) for place in range(max(topology.widths))]
        self.prior = torch.tensor(prior, dtype=torch.float64, device=device)
        self.stood = torch.zeros(batch, len(prior), dtype=torch.float64, device=device)
        self.tried = torch.zeros_like(self.stood)

    def chances(self) -> Float64[Tensor, "batch own"]:
        """Return the chance of each node of the draft's tree to stand; 1 for the root."""
        rate = (self.stood + _PRIOR * self.prior) / (self.tried + _PRIOR)
        # Draws are interchangeable: that a later one stood more often is chance.
        own: Tensor = rate.cummin(1).values[:, self.places]
        own[:, 0] = 1
        for level in self.topology.levels[1:]:
            span = slice(level.start, level.stop)
            own[:, span] *= own[:, self.parents[span]]
        return own

    def learn(
        self,
        own_path: Int[Tensor, "batch level"],
        count: Int[Tensor, " batch"],
        credited: Bool[Tensor, "batch level"],
        kept: Bool[Tensor, "batch own"],
    ) -> None:
        """Count what stood at the nodes of the draft's tree that the walk visited.

        Args:
            own_path: the accepted path by own nodes, 0 where it is not in this tree.
            count: nodes on the path.
            credited: places of the path that count for this draft: no earlier one had them too.
            kept: own nodes that took part; only those were tried.
        """
        level = torch.arange(own_path.shape[1], device=own_path.device)
        inside = level < count[:, None]
        here = inside & ((own_path > 0) | (level == 0))
        children = self.children[own_path]  # [batch, level, place]; 0 where there is none
        took_part = kept.gather(1, children.flatten(1)).view_as(children) & (children > 0)
        self.tried = _MEMORY * self.tried + (took_part & here[..., None]).sum(1)
        stood = inside & (own_path > 0) & credited
        self.stood = (_MEMORY * self.stood).scatter_add(1, self.places[own_path], stood.double())


def _child_table(topology: TreeTopology, device: torch.device) -> Int[Tensor, "own place"]:
    """Return the children of each node by place, 0 where there is none."""
    widest = max(topology.widths)
    rows = [[*own, *[0] * (widest - len(own))] for own in topology.children]
    return torch.tensor(rows, device=device)


def _assumed(place: int) -> float:
    """Return the acceptance that is taken before anything is counted."""
    last = len(FALLBACK) - 1
    return FALLBACK[min(place, last)] / max(1, place - last + 1)
