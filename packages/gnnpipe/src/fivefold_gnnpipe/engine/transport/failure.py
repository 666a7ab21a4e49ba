"""One rank's failure ends all, each with the same line: a note on the store that all share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fivefold import UserError
from torch.distributed import DistError, Store  # type: ignore[attr-defined]

_KEY = "fivefold/failure"
_WAITING = "fivefold/waiting"


class FailureBoard:
    """Where the first rank that fails says so, and where the others look while they wait."""

    def __init__(self, store: Store, rank: int) -> None:
        """Keep the store.

        Args:
            store: the key-value store that all ranks reach.
            rank: this rank.
        """
        self._store = store
        self._rank = rank

    def post(self, problem: str) -> None:
        """Say what ended this rank; the first note stays."""
        with contextlib.suppress(DistError, RuntimeError):
            self._store.compare_set(_KEY, "", problem)

    def look(self) -> None:
        """Go on if no rank has failed.

        Raises:
            UserError: one has; the line names it.
        """
        note = self._note()
        if note:
            raise UserError(note, remedy="mend that rank and start all ranks again")

    def waits_for(self, peer: int | None) -> None:
        """Say whom this rank has been waiting for, or that it waits no longer."""
        with contextlib.suppress(DistError, RuntimeError):
            self._store.set(f"{_WAITING}/{self._rank}", "" if peer is None else str(peer))

    def culprit(self, peer: int) -> int:
        """Return who keeps a rank from sending: it, or whoever it waits for itself."""
        seen = {self._rank}
        while peer not in seen:
            seen.add(peer)
            with contextlib.suppress(DistError, RuntimeError):
                key = f"{_WAITING}/{peer}"
                awaited = self._store.get(key).decode() if self._store.check([key]) else ""
                peer = int(awaited) if awaited else peer
        return peer

    def lost(self, peer: int, reason: str) -> UserError:
        """Return the error for a rank that sends nothing any more, or what it said before.

        Args:
            peer: the rank that was waited for.
            reason: what was seen of it.
        """
        note = self._note()  # a rank that fails says so before its connections close
        if note:
            return UserError(note, remedy="mend that rank and start all ranks again")
        note = f"rank {peer} {reason}"
        self.post(note)
        return UserError(
            note, setting="training.transport.timeout", remedy="see its log; resume=… goes on"
        )

    @contextlib.contextmanager
    def announcing(self) -> Iterator[None]:
        """Tell the other ranks of any error that leaves this block."""
        try:
            yield
        except UserError as error:
            self.post(f"rank {self._rank}: {error.problem}")
            raise
        except Exception as error:
            self.post(f"rank {self._rank} failed: {type(error).__name__}: {error}")
            raise

    def _note(self) -> str:
        try:
            if not self._store.check([_KEY]):
                return ""
            return self._store.get(_KEY).decode()
        except (DistError, RuntimeError):
            return "the rank that keeps the store of all ranks (rank 0) has ended"
