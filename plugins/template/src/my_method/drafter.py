"""The method: everything heavy is imported here, once it is chosen."""

import torch
from fivefold_speculative import DecodeState, Drafter, Proposal, Session, TokenTree, TreeTopology

from .config import MyMethodConfig


class MyMethodDrafter(Drafter):
    """Find the last token's previous place in the text, and propose what came after it."""

    proposal = Proposal.POINT_MASS
    needs_hidden = False

    def __init__(self, config: MyMethodConfig, session: Session) -> None:
        self.topology = TreeTopology.chain(config.length)
        session.require(self.topology, "drafting.length")

    def propose(self, state: DecodeState) -> TokenTree:
        """Return a chain a row; a wrong guess costs a little time, never a token."""
        tree = TokenTree.rooted(state.last_token, self.topology)
        place = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        seen = (state.tokens == state.last_token[:, None]) & (place < state.lengths[:, None] - 1)
        after = (seen * place).amax(-1, keepdim=True) + place[1 : tree.num_nodes]
        tree.fill(range(1, tree.num_nodes), state.tokens.gather(1, after))
        return tree
