"""Feature head: a draft that reads the target's own last hidden states, as EAGLE does."""

from __future__ import annotations

from typing import Any

import torch
from fivefold_lm import Capability, Sampler
from torch import Tensor
from torch.nn import functional

from .._words import Proposal
from ..candidates import AcceptanceSource, Candidate, Profile, step_seconds
from ..config import FeatureHeadConfig
from ..draft_model import DraftKind, DraftModel
from ..outcome import StepOutcome
from ..session import Session, along, padded
from ..topology import TreeTopology
from .chain import chain_proposal, chains
from .model_tree import Level, ModelTreeDrafter, check_widths, draft_sampler

SHIPPED_TREES = ("feature_head_8", "feature_head_32")


class FeatureHeadDrafter(ModelTreeDrafter):
    """Expand a head that reads a token and the feature of the position before it.

    A feature is the target's last hidden state. Committed tokens are run with true features; a
    node of the tree takes the head's own hidden state of its parent for one. So what was run in a
    tree is forgotten, and every step first runs all tokens of the step before, as EAGLE does.
    """

    needs_hidden = True

    def __init__(
        self, draft: DraftModel, topology: TreeTopology, proposal: Proposal, sampler: Sampler
    ) -> None:
        super().__init__(draft, topology, proposal, sampler)
        self.num_late = topology.num_levels

    def start(self, session: Session) -> None:
        """Read what is new of the prompts, from their second tokens on, beside the features."""
        device = session.model.device
        if self._cache is not None:  # the tokens of the last step before a session went on
            self._run_late()
            self._cache.commit(self._num_late)
        self._open(session)
        # A prompt of one token has no feature before it: it is read beside zeros.
        pairs = [
            prompt[n + 1 :] or prompt
            for prompt, n in zip(session.tokens, session.reused, strict=True)
        ]
        longest = max(map(len, pairs))
        counts = torch.tensor([len(pair) for pair in pairs], device=device)
        alone = torch.tensor([len(prompt) == 1 for prompt in session.tokens], device=device)
        tokens, features = padded(pairs, longest, device), session.prompt_hidden
        if features is None:
            features = self._zeros(session, longest)
        features = features.masked_fill(alone[:, None, None], 0)
        if longest > 1:
            assert self.draft.embed is not None
            embeds = self.draft.embed(tokens[:, :-1], features[:, :-1])
            self.forward.prefill(self.cache, None, counts - 1, inputs_embeds=embeds)
        last = (counts - 1)[:, None]
        self._late = tokens.gather(1, last).expand(-1, self.num_late)
        self._features = along(features, last).expand(-1, self.num_late, -1)
        self._num_late = torch.ones_like(counts)

    def observe(self, outcome: StepOutcome) -> None:
        """Forget the tree; remember the step's tokens with the features before them."""
        accepted = outcome.accepted
        assert outcome.hidden is not None
        self.cache.commit(torch.where(accepted.count > 0, self._num_late, 0))
        self._late, self._features = accepted.tokens, outcome.hidden
        self._pad_late()
        self._num_late = accepted.count.clamp(min=1)

    def reshape(self, topology: TreeTopology) -> None:
        """Take another tree; the late tokens are as many as the deepest tree so far can emit."""
        self.num_late = max(self.num_late, topology.num_levels)
        super().reshape(topology)
        if self._cache is not None:
            self._pad_late()

    def _pad_late(self) -> None:
        missing = max(self.num_late - self._late.shape[1], 0)
        self._late = functional.pad(self._late, (0, missing))
        self._features = functional.pad(self._features, (0, 0, 0, missing))

    def _late_features(self) -> Tensor:
        return self._features

    def _parents_hidden(self, hidden: Tensor, level: Level) -> Tensor:
        return hidden[:, level.parents]

    @staticmethod
    def _zeros(session: Session, longest: int) -> Tensor:
        model = session.model
        size = int(model.module.config.get_text_config().hidden_size)
        return torch.zeros(session.batch, longest, size, device=model.device, dtype=model.dtype)


def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]:
    """Offer chains of some lengths, and the shipped trees where children are the best words."""
    found = []
    for draft, named in profile.drafts.items():
        found += _candidates(profile, acceptance, draft, dict(named))
    return found


def _candidates(
    profile: Profile, acceptance: AcceptanceSource, draft: str, named: dict[str, Any]
) -> list[Candidate]:
    kind = DraftKind.FEATURE_HEAD
    vector = acceptance(draft, kind, chain_proposal(profile))
    if vector is None:
        return []
    found = [
        Candidate({**named, "widths": [1] * length}, tokens, seconds, length + 1)
        for length, tokens, seconds in chains(profile, vector, draft, kind)
    ]
    proposal = Proposal.POINT_MASS if profile.greedy else Proposal.WITHOUT_REPLACEMENT
    wide = acceptance(draft, kind, proposal)
    for name in SHIPPED_TREES:
        tree = TreeTopology.find(name)
        if wide is not None and tree.num_nodes <= profile.max_nodes:
            tokens, seconds = wide.expected_tokens(tree), step_seconds(profile, tree, draft, kind)
            found.append(Candidate({**named, "topology": name}, tokens, seconds, tree.num_nodes))
    return found


def build(config: FeatureHeadConfig, session: Session) -> FeatureHeadDrafter:
    """Build `drafting=feature_head`.

    Raises:
        UserError: there is no head for this target, or it cannot verify the tree.
    """
    topology = config.shape()
    session.require(topology, "drafting")
    session.model.require(Capability.HIDDEN_STATES)
    draft = session.load_draft(config.source, DraftKind.FEATURE_HEAD)
    check_widths(topology, draft, config.shape_setting)
    proposal = config.chosen_proposal(session.sampler.greedy)
    return FeatureHeadDrafter(draft, topology, proposal, draft_sampler(config, session, draft))
