"""A layer of a stage, as one chunk after another comes by: what its two forms have in common.

`pull.py` is for layers that are a product with fixed weights, `push.py` for every other one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from ..engine.transport import Program
from .chunks import Chunk
from .config import HistoryDropout, Mode
from .history import zero_history

if TYPE_CHECKING:
    from .chunked import ChunkedRank


@dataclass
class Visit:
    """A chunk in this stage, from its forward turn to its backward turn."""

    trains: bool
    """Whether the carried rows it came with have a gradient."""
    initial: Tensor | None
    """Its initial embedding, a leaf, where layers read one."""
    encoded: Tensor | None
    """What the encoder made of this chunk alone, under autograd."""
    last: Tensor | None = None
    """The carried rows it left with, where the head reads them."""


class StageLayer(ABC):
    """One message-passing layer of a stage and the rows that its chunks read of one another.

    Attributes:
        block: its weights.
        is_prefix: whether the rows that it aggregates are made for all chunks before the first
            turn, so that none is ever stale.
        is_constant: whether those rows are the features, which have no gradient.
    """

    def __init__(self, rank: ChunkedRank, number: int) -> None:
        self.rank, self.number = rank, number
        self.block = rank.plan.block(number)
        self.table = rank.table
        self.is_prefix = rank.has_prefix and number == 1
        self.is_constant = rank.reads_remote_features(number)
        self._is_frozen = rank.settings.history.dropout is HistoryDropout.FROZEN

    def new_history(self) -> Tensor | None:
        """Return zeros for the history; nothing where no row is ever stale."""
        settings = self.rank.settings
        if settings.mode is not Mode.STALE or self.is_prefix:
            return None
        kept, rank = settings.history.dtype, self.rank
        rows, width = len(self.table.local), self.block.in_width
        return zero_history(rows, width, rank.dtype, kept, rank.device)

    def stored(self, h: Float[Tensor, "row dim"], ids: Int[Tensor, " row"]) -> Tensor:
        """Return what others keep of carried rows: before dropout, unless masks are frozen."""
        prepared = self.block.prepare(h)
        return self._dropped(prepared, ids) if self._is_frozen else prepared

    def as_read(self, stored: Float[Tensor, "row dim"], ids: Int[Tensor, " row"]) -> Tensor:
        """Return what is aggregated of rows that are kept."""
        return stored if self._is_frozen else self._dropped(stored, ids)

    def _dropped(self, rows: Tensor, ids: Tensor) -> Tensor:
        return self.rank.masks.drop(self.number, rows, ids)

    # ---------------------------------------------------------------------------------- an epoch

    @abstractmethod
    def open(self) -> None:
        """Get ready for an epoch, whose masks and order are known."""

    @abstractmethod
    def fill(self, leaf: Float[Tensor, "own dim"]) -> Program[None]:
        """Make the rows of all chunks, of a prefix.

        Args:
            leaf: the encoder's rows of the way's own vertices.
        """

    @abstractmethod
    def forward(
        self, chunk: Chunk, visit: Visit, h: Float[Tensor, "row dim"]
    ) -> Program[Float[Tensor, "row out"]]:
        """Take a chunk through the layer.

        Args:
            chunk: whose turn it is.
            visit: its stay in this stage.
            h: its carried rows, a leaf.

        Returns:
            The next carried rows, a leaf.
        """

    @abstractmethod
    def turn_round(self) -> None:
        """Get ready for the first chunk's way back: all have gone forward."""

    @abstractmethod
    def backward(
        self, chunk: Chunk, visit: Visit, gradient: Float[Tensor, "row out"]
    ) -> Program[Float[Tensor, "row dim"]]:
        """Take a chunk back: all that read its rows has come before.

        Args:
            chunk: whose turn it is.
            visit: its stay in this stage.
            gradient: of the rows that `forward` returned.

        Returns:
            The gradient of its carried rows; of a prefix without what neighbours say of them.
        """

    @abstractmethod
    def collect(self, leaf: Float[Tensor, "own dim"]) -> Program[Tensor | None]:
        """Return the gradient of a prefix's leaf that its neighbours have, after all chunks.

        Nothing where the leaf is the features; weights before the aggregation get theirs.
        """

    # ------------------------------------------------------------------------------- the history

    @property
    @abstractmethod
    def history(self) -> Tensor | None:
        """Rows of the epoch of the last refresh, by place; nothing where none is ever stale."""

    @abstractmethod
    def refresh(self) -> None:
        """Let this epoch's rows be the history.

        Raises:
            UserError: a value does not fit into the history's number format.
        """

    @abstractmethod
    def staleness(self) -> tuple[float, float]:
        """Return the squares of the distance of history and fresh rows, and of the fresh ones.

        Of the way's own vertices, before a refresh; of an epoch whose rank `reports`.
        """

    # ---------------------------------------------------------------------------------- the rest

    @abstractmethod
    def exact(
        self,
        rows: Float[Tensor, "local dim"],
        chunk: Chunk,
        h: Float[Tensor, "row dim"],
        initial: Float[Tensor, "row initial"] | None,
    ) -> Float[Tensor, "row out"]:
        """Return a chunk's next rows from prepared rows of all vertices, without dropout."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Return the bytes that are held between steps."""
