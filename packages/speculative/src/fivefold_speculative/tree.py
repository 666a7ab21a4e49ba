"""Token trees: what a drafter proposes and an acceptance rule judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .topology import TreeTopology


@dataclass
class DraftLaw:
    """The laws from which one draft drew.

    Args:
        probs: the laws of each row; each sums to 1.
        drawn_from: index into `probs` of the law that each draw was made from; any number for the
            root and for what was not drawn. A draw is a node where the tree has no `draws`.
        vocab_ids: ids of the tokens the columns stand for; `None`: the first columns of the
            target's vocabulary.
        vocab_size: tokens in the target's vocabulary.
        is_mixed: whether siblings may come from different laws, as those of several drafts do.
    """

    probs: Float[Tensor, "batch law word"]
    drawn_from: Int[Tensor, "#batch draw"]
    vocab_ids: Int[Tensor, " word"] | None
    vocab_size: int
    is_mixed: bool = False

    def of(self, draw: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Return the law of one draw of each row, over the target's vocabulary, in float64."""
        rows = torch.arange(len(draw), device=draw.device)
        law = self.drawn_from.expand(len(draw), -1)[rows, draw]
        return self._spread(self.probs[rows, law].double())

    def support(self) -> Bool[Tensor, " vocab"]:
        """Return the tokens that the draft can propose at all, whatever their probability."""
        words = torch.ones(1, self.probs.shape[-1], device=self.probs.device)
        return self._spread(words)[0] > 0

    def _spread(self, words: Tensor) -> Tensor:
        if self.vocab_ids is None and words.shape[-1] == self.vocab_size:
            return words
        full = words.new_zeros(len(words), self.vocab_size)
        if self.vocab_ids is None:
            full[:, : words.shape[-1]] = words
        else:
            full[:, self.vocab_ids] = words
        return full


@dataclass
class SeveralLaws:
    """The laws of several drafts, whose vocabularies may differ.

    Only the laws of visited nodes are spread over the target's vocabulary.

    Args:
        parts: what each draft drew from; every part is indexed by all draws of the tree.
        part_of: which part each draw belongs to.
    """

    parts: Sequence[DraftLaw]
    part_of: Int[Tensor, " draw"]
    is_mixed: bool = True

    def of(self, draw: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Return the law of one draw of each row, over the target's vocabulary, in float64."""
        part_of = self.part_of[draw][:, None]
        law = self.parts[0].of(draw)
        for place, part in enumerate(self.parts[1:], start=1):
            law = torch.where(part_of == place, part.of(draw), law)
        return law

    def support(self) -> Bool[Tensor, " vocab"]:
        """Return the tokens that some draft can propose."""
        return torch.stack([part.support() for part in self.parts]).any(0)


@dataclass
class Draws:
    """Every draw of a tree in which draws may share a node, in the order in which they are tried.

    Two draws of one token under one parent are one node, verified once, and stay two draws:
    multi-step sampling tries both, each against its own law. Draw 0 stands for none.

    Args:
        parents: the node under which each draw was made; -1 for draw 0 and for draws left out.
        nodes: the node that carries what was drawn.
    """

    parents: Int[Tensor, "batch draw"]
    nodes: Int[Tensor, "batch draw"]


@dataclass
class TokenTree:
    """One tree a row: node 0 is the last committed token, the others are drafted.

    A parent comes before its children; siblings are tried in the order of their nodes, which must
    not depend on the target. Duplicate siblings are separate draws: separate nodes, or one node
    with an entry for each in `draws`.

    Args:
        tokens: the token of each node.
        parents: the parent of each node; -1 for the root.
        depths: edges between each node and the root.
        valid: nodes that exist; the root always does. A node under one that does not exist is
            not reached.
        widths: the most draws that any node of each level has, the last 0; fixed on the host,
            so that a walk knows its number of steps.
        law: what the children were drawn from; `None` for point-mass and empty proposals.
        topology: the static shape, if every row has the same.
        draws: the draws, where several may share a node; `None`: each node is one.
    """

    tokens: Int[Tensor, "batch node"]
    parents: Int[Tensor, "batch node"]
    depths: Int[Tensor, "batch node"]
    valid: Bool[Tensor, "batch node"]
    widths: tuple[int, ...]
    law: DraftLaw | SeveralLaws | None = None
    topology: TreeTopology | None = None
    draws: Draws | None = None
    _ancestors: Bool[Tensor, "batch node node"] | None = field(default=None, repr=False)

    @classmethod
    def rooted(cls, last_token: Int[Tensor, " batch"], topology: TreeTopology) -> TokenTree:
        """Return a tree of a static shape with nothing but its root filled in."""
        shape = shape_of(topology, last_token.device)
        batch, nodes = len(last_token), topology.num_nodes
        tokens = last_token.new_zeros(batch, nodes)
        tokens[:, 0] = last_token
        return cls(
            tokens=tokens,
            parents=shape.parents.expand(batch, -1),
            depths=shape.depths.expand(batch, -1),
            valid=torch.ones_like(tokens, dtype=torch.bool),
            widths=topology.widths,
            topology=topology,
            _ancestors=shape.ancestors.expand(batch, -1, -1),
        )

    @property
    def levels(self) -> int:
        """Levels, the root's included: the most tokens one pass can emit."""
        return len(self.widths)

    @property
    def num_nodes(self) -> int:
        """Nodes a row, the root and those that do not exist included."""
        return self.tokens.shape[1]

    @property
    def ancestors(self) -> Bool[Tensor, "batch node node"]:
        """For each node, the nodes on the path from the root to it, itself included."""
        if self._ancestors is None:
            self._ancestors = ancestors_of(self.parents, self.levels)
        return self._ancestors

    def fill(self, nodes: range, tokens: Int[Tensor, "batch some"]) -> None:
        """Set the tokens of some nodes."""
        self.tokens[:, nodes.start : nodes.stop] = tokens

    def uproot(self, rows: Bool[Tensor, " batch"]) -> None:
        """Leave some rows nothing but their roots: no node and no draw of theirs exists.

        Args:
            rows: those that lose their trees.
        """
        self.valid = self.valid & ((self.depths == 0) | ~rows[:, None])
        if self.draws is not None:
            parents = self.draws.parents.masked_fill(rows[:, None], -1)
            self.draws = Draws(parents, self.draws.nodes)

    def child(self, at: Int[Tensor, " batch"], index: int) -> Int[Tensor, " batch"]:
        """Return the `index`-th existing child of one node a row; 0 where there is none."""
        return _nth(self.valid & (self.parents == at[:, None]), index)

    def draw(self, at: Int[Tensor, " batch"], index: int) -> Int[Tensor, " batch"]:
        """Return the `index`-th draw made under one node a row; 0 where there is none.

        `law.of` has the law of a draw, `node_of` the node that carries its token.
        """
        if self.draws is None:
            return self.child(at, index)
        return _nth(self.draws.parents == at[:, None], index)

    def node_of(self, draw: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Return the node that carries what one draw a row gave; 0 for no draw."""
        return draw if self.draws is None else self.draws.nodes.gather(1, draw[:, None])[:, 0]

    def child_with(
        self, at: Int[Tensor, " batch"], token: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """Return the first child of one node a row that carries a token; 0 where there is none."""
        found = self.valid & (self.parents == at[:, None]) & (self.tokens == token[:, None])
        return found.int().argmax(-1)


def _nth(found: Bool[Tensor, "batch some"], index: int) -> Int[Tensor, " batch"]:
    """Return the place of the `index`-th that was found in each row; 0 where there is none."""
    return (found & (found.cumsum(-1) == index + 1)).int().argmax(-1)


@dataclass(frozen=True)
class TreeShape:
    """A topology as tensors."""

    parents: Int[Tensor, " node"]
    depths: Int[Tensor, " node"]
    ancestors: Bool[Tensor, "node node"]


@lru_cache(maxsize=64)
def shape_of(topology: TreeTopology, device: torch.device) -> TreeShape:
    """Return a topology as tensors on a device; made once."""
    parents = torch.tensor(topology.parents, device=device)
    return TreeShape(
        parents=parents,
        depths=torch.tensor(topology.depths, device=device),
        ancestors=ancestors_of(parents[None], topology.num_levels)[0],
    )


def ancestors_of(
    parents: Int[Tensor, "batch node"], levels: int
) -> Bool[Tensor, "batch node node"]:
    """Return which nodes lie on the path from the root to each node, itself included."""
    batch, nodes = parents.shape
    above = torch.arange(nodes, device=parents.device).expand(batch, -1)
    ancestors = torch.zeros(batch, nodes, nodes, dtype=torch.bool, device=parents.device)
    for _ in range(levels):
        ancestors.scatter_(-1, above[..., None], True)
        above = parents.gather(1, above).clamp(min=0)
    return ancestors
