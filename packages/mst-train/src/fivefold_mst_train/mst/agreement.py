"""Whether all processes of a run were given the same settings."""

from __future__ import annotations

import torch.distributed as dist
from fivefold import UserError


def agree(settings: object, budget: int) -> int:
    """Compare settings with those of the other processes and return the least tile budget.

    Processes with tiles of their own would issue other numbers of collective calls and wait for
    each other for ever.

    Args:
        settings: whose text is compared.
        budget: bytes of a tile on this process's device.

    Raises:
        UserError: names the processes that differ.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return budget
    mine = (repr(settings), budget)
    gathered: list[tuple[str, int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    found = [each for each in gathered if each is not None]
    others = [rank for rank, (said, _) in enumerate(found) if said != found[0][0]]
    if others:
        raise UserError(
            f"processes {', '.join(map(str, others))} have other settings than process 0",
            setting="training",
            value="mst",
            remedy="start all of them with one command, by torchrun",
        )
    return min(each for _, each in found)
