"""Settings of `drafting=specexec`. Light: no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fivefold import UserError
from fivefold_speculative.config import BITS, check_bits, draft_source

_MAX_BUDGET = 8192
_KINDS = ("independent", "feature_head")


@dataclass
class SpecExecConfig:
    """Settings of `drafting=specexec`."""

    draft: str = "shipped"
    """Draft model: a hub id, a folder, a draft file (`.safetensors`) made for the target,
    `shipped` for the one that comes with the engine, or `quantised` for a copy of the target in
    fewer bits."""
    bits: int = BITS
    """Bits of a number in `draft=quantised`, from 2 to 8."""
    kind: str = "independent"
    """What the draft reads: `independent` (tokens) or `feature_head` (the target's hidden states
    too)."""
    budget: int = 16
    """Nodes a row in a target pass, the last written token included; as many as the target
    verifies for little more than one, hundreds to thousands where its weights stream."""
    frontier: int = 128
    """Most nodes a row in one draft pass."""
    branch: int = 32
    """Most children of a node."""
    max_iters: int = 32
    """Most draft passes a step, so also the most tokens in a row that are drafted."""
    decay: float = 0.95
    """Factor on the probability of a path for each of its tokens: below 1, long and nearly certain
    paths leave some of the budget to others."""
    min_logp: float | None = None
    """Natural logarithm of the least probability, decay included, with which a path is proposed;
    null: the budget alone decides."""
    logit_error: float | None = None
    """How far the draft's logits are taken to be off, as a scale: trees are then grown for what the
    target will choose, by the noise that is known beforehand, and not for what is probable. Null:
    by probability, as in the source. A few tenths for a copy of the target in fewer bits."""
    lm_head_chunk: int | None = None
    """Nodes of all rows whose logits are there at a time: tokens are drawn inside a chunk; 0: all
    at once; null: all at once up to 256 MiB of logits, then chunks of 64 MiB."""

    def __post_init__(self) -> None:
        """Check words and ranges.

        Raises:
            UserError: what no tree could be grown with.
        """
        if not self.draft:
            raise UserError(
                "no draft model is named",
                setting="drafting.draft",
                remedy="give a hub id, a folder, a draft file, or shipped",
            )
        if self.kind not in _KINDS:
            raise UserError(
                "unknown kind of draft",
                setting="drafting.kind",
                value=self.kind,
                remedy=f"choose one of {', '.join(_KINDS)}",
            )
        if self.budget < 2:
            raise UserError(
                "a tree of the last token alone drafts nothing",
                setting="drafting.budget",
                value=self.budget,
                remedy="give 2 nodes or more, or choose drafting=none",
            )
        if self.budget > _MAX_BUDGET:
            raise UserError(
                f"more than {_MAX_BUDGET} nodes: the mask of a tree grows with their square",
                setting="drafting.budget",
                value=self.budget,
                remedy="lower it",
            )
        check_bits(self.bits, [self.draft])
        for field in ("frontier", "branch", "max_iters"):
            _refuse(getattr(self, field) < 1, self, field, "a count below 1", "give 1 or more")
        _refuse(
            not 0 < self.decay <= 1,
            self,
            "decay",
            "a decay that is no factor from 0 to 1",
            "give one above 0 and at most 1",
        )
        _refuse(
            self.min_logp is not None and not self.min_logp < 0,
            self,
            "min_logp",
            "a logarithm of a probability is below 0",
            "give a negative number, such as -10, or leave it out",
        )
        _refuse(
            self.logit_error is not None and not 0 < self.logit_error < math.inf,
            self,
            "logit_error",
            "the scale of an error is above 0",
            "give a number such as 0.3, or leave it out",
        )
        _refuse(
            self.lm_head_chunk is not None and self.lm_head_chunk < 0,
            self,
            "lm_head_chunk",
            "a negative number of nodes",
            "give 0 (all at once) or more, or leave it out",
        )

    @property
    def source(self) -> str:
        """What a session's `load_draft` is asked for."""
        return draft_source(self.draft, self.bits)

    @property
    def most_passes(self) -> int:
        """Most passes of the draft a step.

        The best node that waits for a pass is among the best of the budget for good, and the last
        of these has no child there: so there are fewer passes than nodes.
        """
        return min(self.max_iters, self.budget - 1)

    def head_chunk(self, rows: int, vocab_size: int) -> int:
        """Return how many nodes' logits may be there at a time; 0: all.

        Args:
            rows: of the batch.
            vocab_size: of the target.
        """
        if self.lm_head_chunk is not None:
            return self.lm_head_chunk
        row_bytes = 4 * vocab_size
        if rows * self.budget * row_bytes <= _ALL_AT_ONCE_BYTES:
            return 0
        return max(1, _CHUNK_BYTES // row_bytes)


_ALL_AT_ONCE_BYTES = 256 << 20
_CHUNK_BYTES = 64 << 20


def _refuse(wrong: bool, config: SpecExecConfig, field: str, problem: str, remedy: str) -> None:
    if wrong:
        raise UserError(
            problem, setting=f"drafting.{field}", value=getattr(config, field), remedy=remedy
        )
