"""The correction protocol: what `correction=NAME` builds, and the method that corrects nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fivefold_lm import KVCache, Rows

from .config import NoCorrectionConfig
from .outcome import Accepted
from .rules import AcceptanceRule
from .session import Session
from .state import DecodeState
from .tree import TokenTree


@runtime_checkable
class Corrector(Protocol):
    """Decides which drafted tokens stand, and repairs the target's cache."""

    @property
    def lossless(self) -> bool:
        """Whether the text follows the target's law."""
        ...

    def judge(
        self, tree: TokenTree, rows: Rows, rule: AcceptanceRule, state: DecodeState
    ) -> Accepted:
        """Return the path that stands; a lossless corrector asks the rule.

        Args:
            tree: what was drafted.
            rows: the target's logits at every node.
            rule: the acceptance rule of this run.
            state: where decoding stands.
        """
        ...

    def repair(self, cache: KVCache, accepted: Accepted) -> None:
        """Make the cache hold the committed tokens and the accepted path, and nothing else."""
        ...


class NoCorrection:
    """`correction=none`: the acceptance rule alone decides."""

    lossless = True

    def judge(
        self, tree: TokenTree, rows: Rows, rule: AcceptanceRule, state: DecodeState
    ) -> Accepted:
        """Ask the rule."""
        return rule.accept(tree, rows, state)

    def repair(self, cache: KVCache, accepted: Accepted) -> None:
        """Keep the accepted path."""
        cache.keep(accepted.path, accepted.count)


def build(config: NoCorrectionConfig, session: Session) -> NoCorrection:
    """Build `correction=none`."""
    return NoCorrection()
