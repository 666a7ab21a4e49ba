"""Ranks that were started with other settings, graphs or seeds are told apart before they train."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

from fivefold import UserError
from fivefold.errors import shown

from .base import Transport


def agree(transport: Transport, settings: Mapping[str, object]) -> None:
    """Compare settings between all ranks, once a run.

    Args:
        transport: this rank's end.
        settings: flat: each setting or digest by the name a user knows it by.

    Raises:
        UserError: a rank has others; the line names it and the setting. All ranks raise the same.
    """
    notes = transport.exchange(json.dumps(dict(settings), default=str, sort_keys=True))
    first = json.loads(notes[0])
    for rank, note in enumerate(notes):
        other = json.loads(note)
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                with contextlib.suppress(UserError):  # the store stays until all have read
                    transport.exchange("read")
                here, there = shown(other.get(name)), shown(first.get(name))
                raise UserError(
                    f"rank {rank} has {here} and rank 0 has {there}",
                    setting=name,
                    value=settings.get(name),
                    remedy="start every rank with the same command",
                )
