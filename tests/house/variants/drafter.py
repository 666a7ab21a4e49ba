"""The template's method with drawn children, and with one bug if `BUG` names one.

Copied over `my_method/drafter.py` by a house test; the exam must pass without a bug and fail with
each of them.
"""

import torch
from fivefold_lm import Purpose
from fivefold_speculative import (
    DecodeState,
    Drafter,
    DraftLaw,
    Proposal,
    Session,
    TokenTree,
    TreeTopology,
)
from torch import Tensor

from .config import MyMethodConfig

BUG = "none"
TOPOLOGY = TreeTopology.expansion([3])


class MyMethodDrafter(Drafter):
    """Draw three children from the frequencies of the text so far, independently."""

    proposal = Proposal.SAMPLED
    needs_hidden = False

    def __init__(self, config: MyMethodConfig, session: Session) -> None:
        self.vocab_size = session.model.vocab_size
        session.require(TOPOLOGY, "drafting.length")

    def propose(self, state: DecodeState) -> TokenTree:
        """Return a tree of one level a row."""
        tree = TokenTree.rooted(state.last_token, TOPOLOGY)
        law = self.frequencies(state)  # [batch, vocab]
        children = (law.cumsum(-1)[:, None] < self.uniform(state)[..., None]).sum(-1)
        children = children.clamp(max=self.vocab_size - 1)
        if BUG == "topk_as_sampled":
            children = law.topk(3).indices
        if BUG == "sorted_children":
            children = children.gather(1, law.gather(1, children).argsort(descending=True))
        tree.fill(range(1, 4), children)
        if BUG == "dropped_duplicates":
            tree.valid[:, 2] = children[:, 1] != children[:, 0]
            tree.valid[:, 3] = (children[:, 2:] != children[:, :2]).all(-1)
        if BUG == "another_law":
            law = law.square() / law.square().sum(-1, keepdim=True)
        drawn_from = torch.zeros(1, TOPOLOGY.num_nodes, dtype=torch.long)
        tree.law = DraftLaw(law[:, None], drawn_from, None, self.vocab_size)
        return tree

    def frequencies(self, state: DecodeState) -> Tensor:
        """Return how often each token stands in the text, plus a little, as a law."""
        place = torch.arange(state.tokens.shape[1])
        is_text = (place < state.lengths[:, None]).double()
        counts = torch.full((len(state.tokens), self.vocab_size), 0.1, dtype=torch.float64)
        counts = counts.scatter_add(1, state.tokens, is_text)
        return counts / counts.sum(-1, keepdim=True)

    def uniform(self, state: DecodeState) -> Tensor:
        """Return three numbers a row for this step."""
        if BUG == "noise_reused":
            start = torch.zeros_like(state.lengths)
            return state.noise.uniform(Purpose.DRAFT, state.request, start, 3)
        if BUG == "noise_of_its_own":
            return torch.rand(len(state.tokens), 3, dtype=torch.float64)
        return state.uniform(Purpose.DRAFT, 0, 3)
