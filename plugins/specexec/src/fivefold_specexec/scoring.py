"""What children a draft's logits give a node, and how likely the target is to choose each.

The source scores a child by its probability under the draft. That is right of a draft whose law is
the target's and whose noise is not known. But the text's noise is known: the token of a position is
drawn by inverting the target's distribution function at a number that is there beforehand. And a
good draft's best word is the target's far more often than its probability says. With an error given
to the draft's logits, a child's score is the chance that the target's token is that child:

    greedy     softmax(l / e), of logits l with independent errors of Gumbel's law and scale e;
    sampled    s(c_t) - s(c_{t-1}), s the logistic function, c_t = (logit F_t - logit u) T / e,

F the draft's distribution function in the order of the vocabulary, T the temperature, u the number
at which the target inverts its own: the second is the chance that u lies between F_{t-1} and F_t
when both are shifted by one logistic error of scale e / T on the scale of their logits. Of two
words the first is its limit for T to 0. Whatever trees come of it, the text is that of plain
sampling: it depends on no tree. These scores are our own; neither paper nor code has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fivefold_lm import Sampler
from jaxtyping import Float, Float64, Int
from torch import Tensor

Children = tuple[Int[Tensor, "batch node child"], Float64[Tensor, "batch node child"]]
"""Words under each node and the logarithms of their scores."""


def best_children(logits: Float[Tensor, "batch node word"], branch: int) -> Children:
    """Return the most probable words under each node and their log-probabilities, best first.

    The law is the softmax of the draft's raw logits: temperature and cuts are the target's matter.
    """
    best = logits.topk(min(branch, logits.shape[-1]), dim=-1)
    mass = logits.logsumexp(-1, keepdim=True)
    # Rounded, a certain word could come out above 0, and score above its parent.
    return best.indices, (best.values - mass).double().clamp(max=0)


@dataclass(frozen=True)
class Words:
    """The draft's words in the order of the target's vocabulary.

    Args:
        by_id: indices of the draft's words, by the target's.
        places: of each of the draft's words among them.
    """

    by_id: Int[Tensor, " word"]
    places: Int[Tensor, " word"]

    @classmethod
    def of(cls, vocab_ids: Int[Tensor, " word"] | None) -> Words | None:
        """Return the order of a draft's words; `None` where they are the target's."""
        if vocab_ids is None:
            return None
        by_id = vocab_ids.argsort()
        return cls(by_id, by_id.argsort())


def likely_draws(
    logits: Float[Tensor, "batch node word"],
    uniform: Float64[Tensor, "batch node"],
    branch: int,
    error: float,
    sampler: Sampler,
    order: Words | None = None,
) -> Children:
    """Return the most probable words under each node, scored by the known noise of their position.

    Args:
        logits: the draft's.
        uniform: at which the target's distribution function is inverted, in (0, 1).
        branch: most words a node.
        error: scale of the error of the draft's logits.
        sampler: makes the draft's law; not greedy.
        order: of the draft's words; `None`: they are the target's.
    """
    law = sampler.law(logits.flatten(0, 1)).view_as(logits)
    chances, words = law.topk(min(branch, law.shape[-1]), dim=-1)
    upto = (law if order is None else law[..., order.by_id]).cumsum(-1, dtype=torch.double)
    total = upto[..., -1:]
    above = upto.gather(-1, words if order is None else order.places[words]) / total
    below = above - chances.double() / total
    steepness = sampler.config.temperature / error
    ends = torch.stack([below, above]).clamp(0, 1).logit() - uniform.logit()[..., None]
    low, high = (ends * steepness).sigmoid()
    return words, (high - low).clamp(0, 1).log()
