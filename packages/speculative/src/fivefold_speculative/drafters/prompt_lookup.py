"""Prompt look-up: the text so far is the draft model."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .._words import Proposal
from ..config import PromptLookupConfig
from ..outcome import StepOutcome
from ..session import Session
from ..state import DecodeState
from ..topology import TreeTopology
from ..tree import TokenTree


class PromptLookupDrafter:
    """Find where the newest tokens stood before, and draft what followed them there.

    The longest match counts, among equals the latest. A continuation that reaches the end of the
    text goes on with its own first tokens, as a text does that repeats itself.
    Source: github.com/apoorvumang/prompt-lookup-decoding.

    Args:
        config: lengths of match and draft.
    """

    proposal = Proposal.POINT_MASS
    needs_hidden = False

    def __init__(self, config: PromptLookupConfig) -> None:
        self._config = config
        self.topology = TreeTopology.chain(config.num_tokens)

    def start(self, session: Session) -> None:
        """Nothing to read: the state holds the text."""

    def propose(self, state: DecodeState) -> TokenTree:
        """Return a chain; in rows without a match nothing but the root is valid.

        Where no row has one, the root alone is verified: a pass of one node costs less.
        """
        continuation, found = look_up(
            state.tokens,
            state.lengths,
            self._config.num_tokens,
            self._config.max_ngram,
            self._config.min_ngram,
        )
        if found.device.type == "cpu" and not bool(found.any()):  # asking is free there
            return TokenTree.rooted(state.last_token, TreeTopology.root())
        tree = TokenTree.rooted(state.last_token, self.topology)
        tree.fill(range(1, tree.num_nodes), continuation)
        tree.valid[:, 1:] = found[:, None]
        return tree

    def observe(self, outcome: StepOutcome) -> None:
        """Nothing to learn: the state holds the text."""


def look_up(
    tokens: Int[Tensor, "batch position"],
    lengths: Int[Tensor, " batch"],
    num_tokens: int,
    max_ngram: int,
    min_ngram: int,
) -> tuple[Int[Tensor, "batch draft"], Bool[Tensor, " batch"]]:
    """Return what followed the newest tokens earlier in the text, and whether they were there.

    Args:
        tokens: texts, valid up to `lengths`.
        lengths: tokens a row.
        num_tokens: tokens to return.
        max_ngram: longest match that counts more than a shorter one.
        min_ngram: shortest match that counts.
    """
    batch, width = tokens.shape
    end = torch.arange(width, device=tokens.device)  # where an earlier match would end
    matching = (end < lengths[:, None] - 1).expand(batch, -1)
    matched = torch.zeros_like(tokens)  # tokens matched up to each place
    for back in range(max_ngram):
        newest = tokens.gather(1, (lengths - 1 - back).clamp(min=0)[:, None])
        there = tokens.roll(back, 1) == newest  # [batch, position]: the token `back` before `end`
        matching = matching & there & (end >= back)
        matched += matching
    best = torch.where(matched > 0, matched * width + end, 0).argmax(1, keepdim=True)
    found = matched.gather(1, best)[:, 0] >= min_ngram
    period = (lengths[:, None] - 1 - best).clamp(min=1)
    steps = torch.arange(num_tokens, device=tokens.device)
    return tokens.gather(1, best + 1 + steps % period), found


def build(config: PromptLookupConfig, session: Session) -> PromptLookupDrafter:
    """Build `drafting=prompt_lookup`.

    Raises:
        UserError: the target cannot verify a chain.
    """
    drafter = PromptLookupDrafter(config)
    session.require(drafter.topology, "drafting")
    return drafter
