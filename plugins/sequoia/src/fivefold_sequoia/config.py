"""Settings of `drafting=sequoia`. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from fivefold import UserError
from fivefold_speculative import AcceptanceVector, DraftModelConfig, Proposal, TreeTopology
from fivefold_speculative.acceptance import FALLBACK

from .importing import read_topology

KINDS = ("independent", "feature_head")
MEASURES = ("teacher_forced", "online")
DEFAULT_NODES = 32
"""Nodes of a tree that nobody asked for, without a planner: what most machines verify at little
more than the price of one token."""
DEFAULT_LEVELS = 8
"""Levels likewise: at most seven passes of the draft a step."""
_MOST_NODES = 4096


@dataclass
class SequoiaConfig(DraftModelConfig):
    """Settings of `drafting=sequoia`."""

    kind: str = field(default="independent", metadata={"choices": KINDS})
    """What the draft reads: `independent` (tokens) or `feature_head` (the target's hidden states
    too)."""
    nodes: int | None = None
    """Nodes of the tree, the root included; null: what `drafting=auto` plans, else 32."""
    levels: int | None = None
    """Most levels, the root's included, so most tokens a step; null: what is planned, else 8."""
    branch: int | None = None
    """Most children of a node; null: as many as were measured."""
    acceptance: str = "auto"
    """How often the k-th child stands: a JSON file, `fallback` for a usual vector, or `auto`:
    measured once for this target, draft and sampler, and remembered in the cache folder."""
    measure: str = field(default="teacher_forced", metadata={"choices": MEASURES})
    """How `auto` measures: `teacher_forced` (both models read a text once) or `online` (decoding
    with a star)."""
    width: int = 32
    """Children that `auto` measures."""
    ranked: bool = True
    """Plan with acceptance by depth and by the parent's rank, where that was measured."""
    smooth: bool = False
    """Make the acceptance vector non-increasing before planning (isotonic regression)."""
    topology: str = ""
    """JSON file of a tree, `{"parents": [-1, 0, …]}`, that takes the place of planning: `nodes`,
    `levels`, `branch` and `acceptance` are refused beside it."""
    replan: float = 0.1
    """Plan anew when the tokens expected of a step, by what was accepted meanwhile, have fallen by
    this share; 0: never. The text of sampled requests then depends on those decoded with them."""
    replan_every: int = 64
    """Steps between two looks at what was accepted."""

    def __post_init__(self) -> None:
        """Check words and ranges."""
        super().__post_init__()
        _one_of(self.kind, KINDS, "kind")
        _one_of(self.measure, MEASURES, "measure")
        _at_least(self.nodes, 2, "nodes", "a tree needs a root and a child")
        _at_least(self.levels, 2, "levels", "a tree needs a root and a level under it")
        _at_least(self.branch, 1, "branch", "a tree needs children")
        _at_least(self.width, 1, "width", "nothing would be measured")
        _at_least(self.replan_every, 1, "replan_every", "no step would be the next")
        if self.nodes is not None and self.nodes > _MOST_NODES:
            raise UserError(
                f"the tree would have more than {_MOST_NODES} nodes",
                setting="drafting.nodes",
                value=self.nodes,
                remedy="lower it",
            )
        if not 0 <= self.replan < 1:
            raise UserError(
                "not a share",
                setting="drafting.replan",
                value=self.replan,
                remedy="give 0 (never) or a number below 1",
            )
        if not self.acceptance:
            raise UserError(
                "no acceptance vector is named",
                setting="drafting.acceptance",
                remedy="give a JSON file, auto or fallback",
            )
        if self.topology:
            self._plan_nothing()
        self.given_vector()
        self.given_tree()

    def given_vector(self) -> AcceptanceVector | None:
        """Return the acceptance vector that the settings name; `None`: it is to be measured.

        Raises:
            UserError: a file that holds no vector.
        """
        if self.acceptance == "auto":
            return None
        if self.acceptance == "fallback":
            return AcceptanceVector(FALLBACK)
        return AcceptanceVector.read(self.acceptance)

    def given_tree(self) -> TreeTopology | None:
        """Return the tree of the file that the settings name; `None`: it is to be planned.

        Raises:
            UserError: a file that holds no tree, or one that no pass could verify.
        """
        if not self.topology:
            return None
        tree = read_topology(self.topology)
        if tree.num_nodes > _MOST_NODES:
            raise UserError(
                f"a tree of {tree.num_nodes} nodes, and a pass verifies {_MOST_NODES} at most",
                setting="drafting.topology",
                value=self.topology,
                remedy="give a smaller tree",
            )
        return tree

    def _plan_nothing(self) -> None:
        """Refuse settings of planning beside a tree that takes its place."""
        for name in ("nodes", "levels", "branch", "acceptance"):
            value = getattr(self, name)
            if value not in (None, "auto"):
                raise UserError(
                    f"nothing is planned, as {self.topology} holds the tree",
                    setting=f"drafting.{name}",
                    value=value,
                    remedy="leave it out, or drafting.topology",
                )

    def chosen_proposal(self, greedy: bool) -> Proposal:
        """Return how children come about: never the same word twice, unless another is asked for.

        Under greedy decoding the children are the draft's best words.
        """
        if self.proposal != "auto":
            return super().chosen_proposal(greedy)
        return Proposal.POINT_MASS if greedy else Proposal.WITHOUT_REPLACEMENT


def _at_least(value: int | None, least: int, name: str, problem: str) -> None:
    if value is not None and value < least:
        raise UserError(
            problem,
            setting=f"drafting.{name}",
            value=value,
            remedy=f"give {least} or more, or choose drafting=none",
        )


def _one_of(value: str, known: tuple[str, ...], name: str) -> None:
    if value not in known:
        raise UserError(
            f"unknown {name}",
            setting=f"drafting.{name}",
            value=value,
            remedy=f"choose one of {', '.join(known)}",
        )
