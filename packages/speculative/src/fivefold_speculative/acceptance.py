"""How often the k-th drafted child stands: what a tree's shape is planned from. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fivefold import UserError
from fivefold.files import write_atomically

from .json_files import read_json
from .ranked import RankedAcceptance
from .topology import TreeTopology

_SCHEMA = 1
_SETTING = "drafting.acceptance"
_REMEDY = 'give a JSON file such as {"schema": 1, "probs": [0.65, 0.2, 0.1]}, or measure it anew'
FALLBACK = (0.65, 0.2, 0.1, 0.05)
"""What is taken where nothing was measured (UMbreLLa's vector)."""


@dataclass(frozen=True)
class AcceptanceVector:
    """The positional acceptance of a draft (Sequoia, arXiv 2402.12374, section 3).

    Args:
        probs: for k = 1, 2, …: the probability that the k-th child tried stands, all before it
            having been rejected, given that their parent stands. These events exclude each other,
            so that the sum is at most 1.
        errors: the standard error of each; empty: not known.
        measured_on: what it was measured on, by name: hashes of target and draft, sampler, corpus,
            date.
        ranked: the same by depth and by the parent's rank, if that was measured too.

    Raises:
        UserError: no probabilities, or a sum above 1.
    """

    probs: tuple[float, ...]
    errors: tuple[float, ...] = ()
    measured_on: Mapping[str, str] = field(default_factory=dict)
    ranked: RankedAcceptance | None = None

    def __post_init__(self) -> None:
        """Refuse what no draft can have."""
        if not self.probs or not all(0 <= p <= 1 for p in self.probs):
            raise _broken("an acceptance vector holds probabilities, from 0 to 1")
        if sum(self.probs) > 1 + 1e-6:
            raise _broken(
                f"the probabilities sum to {sum(self.probs):.3f}, above 1; each is that of a child "
                "standing after all before it were rejected"
            )
        if self.errors and len(self.errors) != len(self.probs):
            raise _broken(f"{len(self.probs)} probabilities have {len(self.errors)} errors")

    @classmethod
    def of_counts(
        cls, counts: Sequence[int], total: int, measured_on: Mapping[str, str] | None = None
    ) -> AcceptanceVector:
        """Return the vector of what was counted.

        Args:
            counts: how often the k-th child stood.
            total: nodes whose children were tried, whether one stood or none.
            measured_on: see the class.
        """
        probs = [count / total for count in counts]
        errors = [math.sqrt(p * (1 - p) / total) for p in probs]
        return cls(tuple(probs), tuple(errors), dict(measured_on or {}))

    @classmethod
    def read(cls, path: str | Path) -> AcceptanceVector:
        """Read what `write` wrote.

        Raises:
            UserError: the file cannot be read, is no JSON, or holds no acceptance vector.
        """
        try:
            record = read_json(path)
        except ValueError as error:
            raise _broken(str(error)) from error
        if not isinstance(record, dict) or not _are_numbers(record.get("probs")):
            raise _broken(f"{path} holds no list of numbers named probs")
        errors, measured_on = record.get("errors", []), record.get("measured_on", {})
        if not _are_numbers(errors):
            raise _broken(f"{path}: errors is no list of numbers")
        if not isinstance(measured_on, dict):
            raise _broken(f"{path}: measured_on holds no names")
        ranked = _ranked(record.get("ranked"), path)
        return cls(tuple(record["probs"]), tuple(errors), dict(measured_on), ranked)

    def write(self, path: str | Path) -> None:
        """Write everything as JSON, all of it or nothing."""
        record = {"schema": _SCHEMA, **asdict(self)}
        write_atomically(Path(path), json.dumps(record) + "\n", _SETTING)

    def plain(self) -> AcceptanceVector:
        """Return the vector alone, the same for all nodes."""
        return replace(self, ranked=None)

    def expected_tokens(self, topology: TreeTopology) -> float:
        """Return the expected tokens of a pass: the sum over nodes of their chance to stand.

        The root counts 1: it is the token that follows what stands (Sequoia, section 3). Where
        acceptance by rank was measured, it counts.
        """
        if self.ranked is not None:
            return self.ranked.expected_tokens(topology)
        chance = [1.0]
        for node, parent in enumerate(topology.parents[1:], start=1):
            place = topology.child_index[node]
            own = self.probs[place] if place < len(self.probs) else 0.0
            chance.append(chance[parent] * own)
        return sum(chance)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _ranked(record: object, path: str | Path) -> RankedAcceptance | None:
    if record is None:
        return None
    try:
        assert isinstance(record, dict)
        rows = tuple(tuple(tuple(map(float, r)) for r in rows) for rows in record["probs"])
        return RankedAcceptance(rows, tuple(map(int, record["starts"])))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise _broken(f"{path}: ranked holds no acceptance by depth and rank") from error


def _broken(problem: str) -> UserError:
    return UserError(f"no acceptance vector: {problem}", setting=_SETTING, remedy=_REMEDY)
