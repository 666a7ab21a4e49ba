"""What a drafting method offers to the planner (`drafting=auto`, `fivefold plan`). No torch.

A method takes part by a function beside its `build`, in the same module:

    def candidates(profile: Profile, acceptance: AcceptanceSource) -> list[Candidate]

It asks the profile what passes cost and the source how often its draft is right, and returns the
settings worth trying; the planner takes the one with the most expected tokens a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ._words import Proposal
from .acceptance import AcceptanceVector
from .topology import TreeTopology


@runtime_checkable
class Profile(Protocol):
    """What passes cost on this machine, in seconds; measured when first asked for."""

    @property
    def drafts(self) -> Mapping[str, Mapping[str, Any]]:
        """What may draft: the user's name of each, and the settings by which a method takes it.

        Some of them are of one kind only, and some may not be there: acceptance tells.
        """
        ...

    @property
    def greedy(self) -> bool:
        """Whether the sampler takes the argmax."""
        ...

    @property
    def overhead(self) -> float:
        """Seconds of a step beside the passes: acceptance, compaction, the loop."""
        ...

    @property
    def max_nodes(self) -> int:
        """The most nodes worth planning for."""
        ...

    def target(self, nodes: int) -> float:
        """Return the seconds of a target pass over so many nodes a row."""
        ...

    def draft(self, draft: str, kind: str, nodes: int) -> float:
        """Return the seconds of one pass of a draft over so many nodes a row.

        Args:
            draft: the user's name for it.
            kind: `independent` or `feature_head`.
            nodes: a row.
        """
        ...


@runtime_checkable
class AcceptanceSource(Protocol):
    """Where acceptance vectors come from: remembered ones, or measured when first asked for."""

    def __call__(self, draft: str, kind: str, proposal: Proposal) -> AcceptanceVector | None:
        """Return the vector of a draft, `None` where there is no such draft.

        Args:
            draft: the user's name for it.
            kind: `independent` or `feature_head`.
            proposal: how children are chosen.
        """
        ...


@dataclass(frozen=True)
class Candidate:
    """One setting of a method, and what it promises.

    Args:
        settings: of the method, by field.
        expected_tokens: of one step.
        seconds: of one step.
        nodes: in the tree, the root included.
    """

    settings: dict[str, Any]
    expected_tokens: float
    seconds: float
    nodes: int

    @property
    def rate(self) -> float:
        """Expected tokens a second."""
        return self.expected_tokens / self.seconds


def step_seconds(profile: Profile, topology: TreeTopology, draft: str, kind: str) -> float:
    """Return the seconds of a step: the draft level by level (leaves are not run), the target once.

    Args:
        profile: what passes cost.
        topology: the tree.
        draft: the draft's name.
        kind: its kind.
    """
    inner = [sum(1 for node in level if topology.children[node]) for level in topology.levels]
    drafting = sum(profile.draft(draft, kind, width) for width in inner if width)
    return drafting + profile.target(topology.num_nodes) + profile.overhead
