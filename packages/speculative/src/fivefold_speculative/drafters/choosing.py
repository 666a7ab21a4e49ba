"""How a draft's logits become children: its best words, or draws with or without replacement."""

from __future__ import annotations

import torch
from fivefold_lm import Purpose, Sampler
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .._words import Proposal
from ..state import DecodeState


def choose_children(
    logits: Float[Tensor, "batch parent word"],
    width: int,
    proposal: Proposal,
    sampler: Sampler,
    state: DecodeState,
    depth: int,
) -> tuple[Int[Tensor, "batch parent child"], Float[Tensor, "batch parent word"] | None]:
    """Choose the children of some nodes of one depth.

    All parents of a row share one noise: a walk visits only one of them.

    Args:
        logits: the draft's, under each parent.
        width: children of each parent.
        proposal: how to choose.
        sampler: makes the draft law.
        state: noise of the rows.
        depth: the parents' depth.

    Returns:
        Words in the order of the draws, and the law they were drawn from; `None` without chance.
    """
    if proposal is Proposal.POINT_MASS:
        return logits.topk(width, dim=-1).indices, None
    law = sampler.law(logits.flatten(0, 1), None).view_as(logits)
    if proposal is Proposal.SAMPLED:
        return draw_with_replacement(law, width, state, depth), law
    return draw_without_replacement(law, width, state, depth), law


def draw_with_replacement(
    law: Float[Tensor, "batch parent word"], width: int, state: DecodeState, depth: int
) -> Int[Tensor, "batch parent child"]:
    """Draw children independently; the same word may come twice."""
    return drawn(law, state.uniform(Purpose.DRAFT, depth, width)[:, None])


def draw_apart(
    law: Float[Tensor, "batch parent word"],
    width: int,
    state: DecodeState,
    depth: int,
    draft: int = 0,
) -> Int[Tensor, "batch parent child"]:
    """Draw children independently under every parent, for trees that are merged afterwards.

    Two parents may turn out to be one node, whose draws must not depend on one another: so no
    number serves two parents, or two drafts. The only parent of a first draft takes those of
    `draw_with_replacement`.

    Args:
        law: the draft law under each parent.
        width: children of each parent.
        state: noise of the rows.
        depth: the parents' depth.
        draft: number of the draft; all drafts have equally many parents.
    """
    count = law.shape[1] * width
    noise = state.uniform(Purpose.DRAFT, depth, (draft + 1) * count)[:, draft * count :]
    return drawn(law, noise.view(len(law), law.shape[1], width))


def drawn(
    law: Float[Tensor, "batch parent word"], noise: Float64[Tensor, "batch some child"]
) -> Int[Tensor, "batch parent child"]:
    """Draw words by inverting the distribution functions; never one of probability zero.

    Args:
        law: of the words, under each parent.
        noise: in the open interval (0, 1), for each parent, or once for all.
    """
    below = law.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(below, noise * below[..., -1:], right=True)


def draw_without_replacement(
    law: Float[Tensor, "batch parent word"], width: int, state: DecodeState, depth: int
) -> Int[Tensor, "batch parent child"]:
    """Draw children one after another, never a word twice, by an exponential race.

    The j-th smallest of E_t / law(t) is the j-th draw. Words of probability 0 race only among
    themselves, uniformly, after all others: the rule knows this fall-back.
    Source: arXiv 2402.12374, section 3.
    """
    late = state.exponential(Purpose.DRAFT, depth, law.shape[-1]).log()[:, None]
    speed = law.double().log()
    finish = torch.where(law > 0, speed - late, -_LAST - late)
    return finish.topk(width, dim=-1).indices


_LAST = 1e6
"""Far beyond every logarithm of E / p that float32 laws allow."""
