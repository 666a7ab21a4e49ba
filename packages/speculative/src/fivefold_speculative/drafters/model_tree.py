"""A static tree filled level by level by a smaller model; a chain is the tree of widths 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from fivefold import UserError
from fivefold_lm import KVCache, Sampler
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .._words import Proposal
from ..config import ChainConfig, DraftModelConfig, ExpansionConfig
from ..draft_model import DraftKind, DraftModel
from ..outcome import Accepted, StepOutcome
from ..session import Session, padded
from ..state import DecodeState
from ..topology import TreeTopology
from ..tree import DraftLaw, TokenTree, shape_of
from .choosing import choose_children


class ModelTreeDrafter:
    """Expand a draft model from the root on (SpecInfer, section 3).

    The draft's cache holds committed tokens. A step first runs those it has not seen (the newest
    token, and an accepted leaf, which was drafted but never run), then the inner nodes, level by
    level; leaves are not run. Afterwards the run nodes of the accepted path stay.

    Args:
        draft: the draft model.
        topology: the shape of every tree.
        proposal: how children are chosen.
        sampler: makes the draft law.
    """

    needs_hidden = False
    num_late = 2
    """Most committed tokens that the draft has not run when a step begins."""

    def __init__(
        self, draft: DraftModel, topology: TreeTopology, proposal: Proposal, sampler: Sampler
    ) -> None:
        self.draft = draft
        self.topology = topology
        self.proposal = proposal
        self.sampler = sampler
        self.forward = draft.forward()
        self._cache: KVCache | None = None
        self._levels = _inner_levels(topology)

    @property
    def cache(self) -> KVCache:
        """The draft's cache."""
        assert self._cache is not None, "start comes first"
        return self._cache

    def start(self, session: Session) -> None:
        """Read what is new of the prompts, but for their last tokens."""
        prompts, device = session.tokens, session.model.device
        held = self._open(session)
        tails = [prompt[n:-1] for prompt, n in zip(prompts, held, strict=True)]
        self._read(tails, device)
        self._late = padded([prompt[-1:] for prompt in prompts], self.num_late, device)
        self._num_late = torch.ones(len(prompts), dtype=torch.long, device=device)

    def propose(self, state: DecodeState) -> TokenTree:
        """Fill the tree level by level."""
        return self.expand(state, len(self._levels))

    def expand(self, state: DecodeState, levels: int) -> TokenTree:
        """Fill the first levels of the tree; what lies below stays as it is in an empty tree.

        Args:
            state: committed tokens, lengths and noise.
            levels: how many of the levels with children to run, at least 1.
        """
        tree = TokenTree.rooted(state.last_token, self.topology)
        logits, hidden = self._run_late()
        laws: list[Tensor | None] = []
        self._num_run = min(levels, len(self._levels))
        for depth, parents in enumerate(self._levels[: self._num_run]):
            if depth:
                logits, hidden = self._run_level(tree, depth, hidden)
            words, law = self._choose(logits, self.topology.widths[depth], state, depth)
            self._fill(tree, parents, words)
            laws.append(law)
        if laws[0] is not None:
            tree.law = self._law(laws, state.sampler.vocab_size)
        return tree

    def observe(self, outcome: StepOutcome) -> None:
        """Keep the accepted nodes that were run; remember the tokens that were not."""
        self.follow(outcome.accepted.path, outcome.accepted)

    def follow(self, path: Int[Tensor, "batch level"], accepted: Accepted) -> None:
        """Keep the nodes of a path that were run; remember the tokens that were not.

        Args:
            path: the accepted path by this draft's own nodes; 0 from where it left this tree.
            accepted: what stood.
        """
        count = accepted.count
        places = torch.arange(path.shape[1], device=path.device)
        slot = self._plan.slots[path]  # [batch, level]; -1 for the root and leaves
        slot = torch.where(slot >= 0, slot - (self.num_late - self._late.shape[1]), -1)
        was_run = (slot >= 0) & (places > 0) & (places < self._num_run)
        run = (was_run & (places < count[:, None])).sum(1)
        self._keep(slot, run, count > 0)
        self._num_late = (count - run).clamp(min=1)
        # Tokens emitted by the path's nodes: the first `run` are of nodes that were run.
        late = run[:, None] + places[: self._most_late()]
        self._late = accepted.tokens.gather(1, late.clamp(max=path.shape[1] - 1))

    def _most_late(self) -> int:
        """Return how many late tokens the next step runs: no more than needed, on a CPU."""
        if self._num_late.device.type == "cpu":
            return int(self._num_late.max())
        return self.num_late

    def reshape(self, topology: TreeTopology) -> None:
        """Take another tree from the next step on; called between two steps.

        Args:
            topology: of no more nodes than the target's cache has room for.
        """
        self.topology = topology
        self._levels = _inner_levels(topology)
        if self._cache is not None:
            self._plan = _Plan.of(topology, self.num_late, self._late.device)
            self._cache.max_len = max(self._cache.max_len, self._slots())

    # Running the draft.

    def _slots(self) -> int:
        """Return the most slots of the cache."""
        return self._longest + self._room()

    def _open(self, session: Session) -> list[int]:
        """Make the cache, or forget what the new prompts do not share; return what is held."""
        longest = session.capacity
        if longest > self.draft.context_len:
            raise UserError(
                f"the draft reads {self.draft.context_len} tokens, and prompt and answer may reach "
                f"{longest}",
                setting="drafting.draft",
                value=self.draft.name,
                remedy="lower max_new_tokens, or choose a draft with a longer context",
            )
        self._longest = longest
        slots = self._slots()
        if self._cache is None:
            self._cache = KVCache.for_module(self.draft.module, session.batch, slots)
        self._cache.max_len = max(self._cache.max_len, slots)
        self._cache.rewind(torch.tensor(session.reused, device=session.model.device))
        self._plan = _Plan.of(self.topology, self.num_late, session.model.device)
        held: list[int] = self._cache.lengths.tolist()
        return held

    def _room(self) -> int:
        """Return the slots that a step needs beside the text's.

        A last step may accept more than the answer may hold: as many as there are levels.
        """
        return self.topology.num_levels + self.num_late + len(self.topology.inner)

    def _read(self, tails: Sequence[Sequence[int]], device: torch.device) -> None:
        longest = max(map(len, tails))
        if longest:
            lengths = torch.tensor([len(tail) for tail in tails], device=device)
            self.forward.prefill(self.cache, padded(tails, longest, device), lengths)

    def _run_late(self) -> tuple[Tensor, Tensor | None]:
        """Run the committed tokens not yet seen; return what follows the last, [batch, 1, …]."""
        batch, late = self._late.shape
        depths = torch.arange(late, device=self._late.device).expand(batch, -1)
        visible = depths[:, None, :] <= depths[:, :, None]
        newest = (self._num_late - 1)[:, None, None]
        return self._run(self._late, self._late_features(), depths, visible, newest)

    def _run_level(
        self, tree: TokenTree, depth: int, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the inner nodes of one level; return what follows each."""
        level = self._plan.levels[depth]
        batch, width = len(tree.tokens), len(level.nodes)
        depths = (self._num_late - 1 + depth)[:, None].expand(-1, width)
        late = self._plan.late[: self._late.shape[1]] < self._num_late[:, None]
        visible = torch.cat(
            [late[:, None].expand(-1, width, -1), level.ancestors.expand(batch, -1, -1)], dim=2
        )
        features = None if hidden is None else self._parents_hidden(hidden, level)
        return self._run(tree.tokens[:, level.nodes], features, depths, visible, None)

    def _run(
        self,
        tokens: Int[Tensor, "batch node"],
        features: Float[Tensor, "batch node hidden"] | None,
        depths: Int[Tensor, "batch node"],
        visible: Tensor,
        only: Int[Tensor, "batch 1 1"] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run nodes; return logits and hidden states of all, or of one node a row."""
        draft = self.draft
        embeds = None
        if draft.embed is not None:
            assert features is not None
            embeds = draft.embed(tokens, features)
        last = (draft.context_len - 1 - self.cache.lengths)[:, None]
        rows = self.forward(
            self.cache,
            tokens if embeds is None else None,
            torch.minimum(depths, last),  # a stopped row may ask for a position past the context
            visible,
            inputs_embeds=embeds,
            want_hidden=draft.head is not None,
            want_logits=draft.head is None,
        )
        own, hidden = rows.logits, rows.hidden
        if only is not None:
            own, hidden = _take(own, only), _take(hidden, only)
        return draft.logits(own, hidden), hidden

    def _choose(
        self, logits: Tensor, width: int, state: DecodeState, depth: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the words under the nodes of a level, and their law; see `choose_children`."""
        return choose_children(logits, width, self.proposal, self.sampler, state, depth)

    def _late_features(self) -> Tensor | None:
        """Return the features beside the late tokens; an independent draft reads none."""
        return None

    def _parents_hidden(self, hidden: Tensor, level: Level) -> Tensor | None:
        """Return the features beside the nodes of a level."""
        return None

    def _keep(self, slot: Tensor, run: Tensor, alive: Tensor) -> None:
        """Commit late tokens and run nodes of the path, which follow one another in the text."""
        late = self._late.shape[1]
        order = torch.arange(late + self._num_run - 1, device=slot.device)
        step = order - self._num_late[:, None] + 1  # place on the path; 0 or less: a late token
        on_path = slot.gather(1, step.clamp(0, slot.shape[1] - 1)).clamp(min=0)
        pending = torch.where(step <= 0, order, on_path)
        self.cache.keep(pending, torch.where(alive, self._num_late + run, 0))

    def _fill(
        self, tree: TokenTree, parents: Sequence[int], words: Int[Tensor, "batch parent child"]
    ) -> None:
        tokens = words if self.draft.vocab_ids is None else self.draft.vocab_ids[words]
        for place, parent in enumerate(parents):
            children = self.topology.children[parent]
            tree.fill(children, tokens[:, place, : len(children)])

    def _law(self, laws: list[Tensor | None], vocab_size: int) -> DraftLaw:
        probs = torch.cat([law for law in laws if law is not None], dim=1)
        return DraftLaw(probs, self._plan.drawn_from, self.draft.vocab_ids, vocab_size)


def build(config: ChainConfig | ExpansionConfig, session: Session) -> ModelTreeDrafter:
    """Build `drafting=chain` or `drafting=expansion`.

    Raises:
        UserError: the draft does not fit the target, or the target cannot verify the tree.
    """
    topology = config.shape()
    session.require(topology, "drafting")
    draft = session.load_draft(config.source, DraftKind.INDEPENDENT)
    proposal = config.chosen_proposal(session.sampler.greedy)
    check_widths(topology, draft, config.shape_setting)
    return ModelTreeDrafter(draft, topology, proposal, draft_sampler(config, session, draft))


def draft_sampler(config: DraftModelConfig, session: Session, draft: DraftModel) -> Sampler:
    """Return what makes the draft law of a session with these settings."""
    return draft_law_sampler(session.sampler, draft, config.temperature)


def draft_law_sampler(
    sampler: Sampler, draft: DraftModel, temperature: float | None = None
) -> Sampler:
    """Return what makes a draft law: the user's cuts at the draft's temperature, no penalties.

    Args:
        sampler: the target's.
        draft: says how many words there are.
        temperature: of the draft law; `None`: the sampler's own (1 if that is greedy).
    """
    sampling = sampler.draft_config
    settings = replace(sampling, temperature=temperature or sampling.temperature or 1.0)
    return Sampler(settings, vocab_size=draft.num_words)


def check_widths(topology: TreeTopology, draft: DraftModel, setting: str) -> None:
    """Refuse more children than the draft has words.

    Args:
        topology: the tree.
        draft: fills it.
        setting: what named the tree, for errors.

    Raises:
        UserError: with both numbers.
    """
    if max(topology.widths) > draft.num_words:
        raise UserError(
            f"a node has {max(topology.widths)} children, and the draft {draft.num_words} words",
            setting=setting,
            remedy="give nodes fewer children",
        )


@dataclass(frozen=True)
class Level:
    """The inner nodes of one level as tensors.

    Args:
        nodes: their numbers in the tree.
        parents: the place of each one's parent among the inner nodes of the level above.
        ancestors: which run nodes of the tree (not the root) each of them sees.
    """

    nodes: Int[Tensor, " inner"]
    parents: Int[Tensor, " inner"]
    ancestors: Bool[Tensor, "inner run"]


@dataclass(frozen=True)
class _Plan:
    """A topology as the draft runs it, in tensors; made once, as nothing of it changes.

    Args:
        levels: the inner nodes, level by level.
        slots: where each node is run among the pending ones; -1: not, or as a late token.
        drawn_from: the place of each node's law, which is its parent's among the inner nodes.
        late: 0, 1, … for every late token.
    """

    levels: tuple[Level, ...]
    slots: Int[Tensor, " node"]
    drawn_from: Int[Tensor, "1 node"]
    late: Int[Tensor, " late"]

    @classmethod
    def of(cls, topology: TreeTopology, num_late: int, device: torch.device) -> _Plan:
        """Plan how a draft runs a topology after so many late tokens."""
        ancestors = shape_of(topology, device).ancestors
        levels: list[Level] = []
        run: list[int] = []
        above: list[int] = []
        for nodes in _inner_levels(topology):
            run += nodes if levels else []
            parents = [above.index(topology.parents[node]) if above else 0 for node in nodes]
            numbers = torch.tensor(nodes, device=device)
            seen = ancestors[nodes][:, run]
            levels.append(Level(numbers, torch.tensor(parents, device=device), seen))
            above = nodes
        slots, drawn_from = [-1] * topology.num_nodes, [0] * topology.num_nodes
        for place, node in enumerate(topology.inner):
            for child in topology.children[node]:
                drawn_from[child] = place
            slots[node] = num_late + place - 1 if place else -1
        return cls(
            tuple(levels),
            torch.tensor(slots, device=device),
            torch.tensor([drawn_from], device=device),
            torch.arange(num_late, device=device),
        )


def _inner_levels(topology: TreeTopology) -> list[list[int]]:
    """Return the nodes with children, level by level."""
    levels = [[node for node in level if topology.children[node]] for level in topology.levels]
    return [level for level in levels if level]


def _take(values: Tensor | None, node: Tensor) -> Tensor | None:
    """Return the values at one node a row, [batch, 1, dim]."""
    if values is None:
        return None
    return values.gather(1, node.expand(-1, 1, values.shape[2]))
