"""Teacher forcing: what target and draft say at every position of a text, each run over it once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fivefold_lm import (
    AttentionMethod,
    FullAttention,
    KVCache,
    LanguageModel,
    RandomStream,
    Sampler,
    TreeForward,
)
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ._words import Proposal, Rule
from .draft_model import DraftModel
from .drafters.choosing import choose_children
from .state import DecodeState

HEAD_DEPTHS = 4
"""Depths at which a feature head is run on its own features; deeper ones count as the last."""
_CHUNK = 256
_BLOCK = 64


@dataclass(frozen=True)
class Forced:
    """A text as target and draft read it; position i is that of the token after the i-th.

    Args:
        tokens: the text.
        target: the target's logits at every position but the last.
        draft: the draft's, by depth: at depth d it has read its own d last features instead of the
            target's; an independent draft reads tokens, and has depth 0 alone.
        begin: by depth, the first position with draft logits.
    """

    tokens: Int[Tensor, " token"]
    target: Float[Tensor, "position vocab"]
    draft: list[Float[Tensor, "_ word"]]
    begin: list[int]


@torch.inference_mode()
def read(
    target: LanguageModel,
    draft: DraftModel,
    text: list[int],
    attention: AttentionMethod | None = None,
) -> Forced:
    """Run target and draft over a text of at least three tokens."""
    tokens = torch.tensor(text, device=target.device)
    method = attention or FullAttention()
    forward = TreeForward(target.module, method)
    cache = method.make_cache(target, 1, len(text))
    wanted = draft.embed is not None
    rows = [
        forward(cache, part[None], *_chain(len(part), part.device), want_hidden=wanted)
        for part in _committed(cache, tokens[:-1])
    ]
    logits = torch.cat([row.logits[0] for row in rows if row.logits is not None])
    if draft.embed is None:
        return Forced(tokens, logits, [_independent(draft, tokens[:-1])], [0])
    hidden = torch.cat([row.hidden[0] for row in rows if row.hidden is not None])
    heads = _feature_head(draft, tokens[:-1], hidden)
    return Forced(tokens, logits, heads, [1 + depth for depth in range(len(heads))])


def _committed(cache: KVCache, tokens: Tensor) -> Iterator[Tensor]:
    """Yield parts of a text; what was run of one is committed before the next."""
    for part in torch.split(tokens, _CHUNK):
        yield part
        cache.commit(torch.tensor([len(part)], device=tokens.device))


def _chain(nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return depths and mask of nodes one below the other."""
    visible = torch.ones(1, nodes, nodes, dtype=torch.bool, device=device).tril()
    return torch.arange(nodes, device=device)[None], visible


def _independent(draft: DraftModel, tokens: Tensor) -> Float[Tensor, "place word"]:
    forward = draft.forward()
    cache = KVCache.for_module(draft.module, 1, len(tokens))
    found = []
    for part in _committed(cache, tokens):
        rows = forward(
            cache,
            part[None],
            *_chain(len(part), part.device),
            want_hidden=draft.head is not None,
            want_logits=draft.head is None,
        )
        found.append(draft.logits(rows.logits, rows.hidden)[0])
    return torch.cat(found)


def _feature_head(
    draft: DraftModel, tokens: Tensor, features: Tensor
) -> list[Float[Tensor, "_ word"]]:
    """Run a feature head from every position on, as deep as a tree would.

    Node j of depth d has token j + 1 + d, and the head's own output at node j of depth d - 1
    beside it (d = 0: the target's feature). It sees what node j of depth d - 1 sees, and itself:
    nodes 0..j of depth 0, and node j of every depth up to its own.
    """
    assert draft.embed is not None
    forward, count, device = draft.forward(), len(tokens) - 1, tokens.device
    depths = min(HEAD_DEPTHS, count)
    cache = KVCache.for_module(draft.module, 1, count * depths)
    beside, found = features[:-1], []
    seen = torch.zeros(count, 0, dtype=torch.bool, device=device)
    for depth in range(depths):
        nodes = count - depth
        own = torch.eye(nodes, dtype=torch.bool, device=device)
        own = own if depth else own.new_ones(nodes, nodes).tril()
        seen = torch.cat([seen[:nodes], own], 1)
        rows = forward(
            cache,
            None,
            torch.arange(depth, count, device=device)[None],
            seen[None],
            inputs_embeds=draft.embed(tokens[None, 1 + depth :], beside[None, :nodes]),
            want_hidden=True,
            want_logits=False,
        )
        assert rows.hidden is not None
        beside = rows.hidden[0]
        found.append(draft.logits(None, rows.hidden)[0])
    return found


@dataclass(frozen=True)
class Chances:
    """What the rule would do with the children at some positions of a text.

    Args:
        stands: the probability that the k-th child stands, all before it having been rejected.
        rank: given the text's next token: how likely it is the k-th child, and accepted as such;
            the last: that no child stands, and the rule writes it. Over all draws these are
            probabilities; for those made here they are weights, by how well the draws go with
            the token. A token that the target cannot write counts as the last.
    """

    stands: Float[Tensor, "position child"]
    rank: Float[Tensor, "position outcome"]


@torch.inference_mode()
def chances(
    forced: Forced,
    depth: int,
    draft: DraftModel,
    sampler: Sampler,
    draft_sampler: Sampler,
    proposal: Proposal,
    width: int,
    key: int,
    rule: Rule,
) -> Chances:
    """Draw children at every position and let probabilities stand for the rule's coins.

    Args:
        forced: the text.
        depth: which of the draft's logits.
        draft: the draft; says which words it has.
        sampler: makes the target's law; penalties, which depend on more than a position, are not
            counted.
        draft_sampler: makes the draft's law.
        proposal: how children are drawn.
        width: children a position.
        key: of the draws: another one, other draws.
        rule: what judges them.
    """
    begin = forced.begin[depth]
    parts = [
        _chances(forced, depth, some, draft, sampler, draft_sampler, proposal, width, key, rule)
        for some in torch.split(torch.arange(begin, len(forced.target)), _BLOCK)
    ]
    return Chances(torch.cat([p.stands for p in parts]), torch.cat([p.rank for p in parts]))


def _chances(
    forced: Forced,
    depth: int,
    positions: Int[Tensor, " position"],
    draft: DraftModel,
    sampler: Sampler,
    draft_sampler: Sampler,
    proposal: Proposal,
    width: int,
    key: int,
    rule: Rule,
) -> Chances:
    positions = positions.to(forced.tokens.device)
    logits = forced.draft[depth][positions - forced.begin[depth]]
    state = _state(positions, sampler, key)
    words, law = choose_children(logits[:, None], width, proposal, draft_sampler, state, 0)
    ids = _ids(draft, logits.device)
    target = over_words(sampler.law(forced.target[positions]), ids)
    place = torch.full((sampler.vocab_size,), len(ids), device=ids.device)
    place[ids] = torch.arange(len(ids), device=ids.device)
    written = place[forced.tokens[positions + 1]]
    drawn_from = None if law is None or rule is Rule.LOOKUP else law[:, 0]
    return judged(target, drawn_from, words[:, 0], written, proposal)


def judged(
    target: Float[Tensor, "position column"],
    draft: Float[Tensor, "position word"] | None,
    children: Int[Tensor, "position child"],
    written: Int[Tensor, " position"],
    proposal: Proposal,
) -> Chances:
    """Return the chances of drawn children under the rule that goes with their proposal.

    a_k = (1 - a_1 - … - a_(k-1)) * min(1, R(x_k) / D(x_k)), R and D as in the rules; for children
    that are looked up, a_k = P(x_k) where x_k is new. Source: arXiv 2402.12374, section 3.

    Args:
        target: the target's law over the draft's words; the last column is all other tokens.
        draft: the law that children were drawn from; `None`: they are looked up.
        children: words, in the order in which they are tried.
        written: the word of the text's next token, the number of words for all others.
        proposal: how they came about.
    """
    same = (children == written[:, None]).to(target.dtype)
    chance = target.gather(1, written[:, None])
    if draft is None:
        again = (children[:, :, None] == children[:, None, :]).tril(-1).any(-1)
        stands = target.gather(1, children).masked_fill(again, 0)
        same = same.masked_fill(again, 0)
        return Chances(stands, torch.cat([same, 1 - same.sum(1, keepdim=True)], 1))
    residual, rest = target, functional.pad(draft, (0, 1))
    untried = torch.ones_like(rest)
    untried[:, -1] = 0
    reach = torch.ones_like(chance)
    found = []
    for child in torch.split(children, 1, dim=1):
        left = rest.sum(1, keepdim=True)
        law = torch.where(left > 0, rest, untried)
        law = law / law.sum(1, keepdim=True)
        more = (residual - law).clamp_(min=0)
        mass = more.sum(1, keepdim=True)
        share = (residual.gather(1, child) / law.gather(1, child)).clamp(max=1)
        share = torch.where(mass > 0, share, 1.0)
        found.append(reach * share)
        reach = reach * (1 - share)
        residual = torch.where(mass > 0, more / mass, residual)
        if proposal is Proposal.WITHOUT_REPLACEMENT:
            rest = rest.scatter(1, child, 0.0)
            untried = untried.scatter(1, child, 0.0)
    stands = torch.cat(found, 1)
    rank = torch.cat([stands * same, reach * residual.gather(1, written[:, None])], 1) / chance
    none = functional.pad(torch.zeros_like(stands), (0, 1), value=1.0)
    return Chances(stands, torch.where(chance > 0, rank, none))


def over_words(
    law: Float[Tensor, "position vocab"], ids: Int[Tensor, " word"]
) -> Float[Tensor, "position column"]:
    """Return a law over a draft's words and all other tokens together.

    Nothing is lost: the draft law is 0 there, so that a residual only scales them.
    """
    own = law[:, ids]
    others = (1 - own.sum(1, keepdim=True)).clamp(min=0)
    if len(ids) == law.shape[1]:
        others = torch.zeros_like(others)
    return torch.cat([own, others], 1)


def _ids(draft: DraftModel, device: torch.device) -> Int[Tensor, " word"]:
    if draft.vocab_ids is not None:
        return draft.vocab_ids.to(device)
    return torch.arange(draft.num_words, device=device)


def _state(positions: Tensor, sampler: Sampler, key: int) -> DecodeState:
    """Return a state a position, for the noise of its draws."""
    return DecodeState(
        tokens=positions[:, None],
        lengths=positions + 1,
        active=positions >= 0,
        request=torch.full_like(positions, key),
        noise=RandomStream(sampler.config.seed),
        sampler=sampler,
        history=None,
        alive=True,
    )
