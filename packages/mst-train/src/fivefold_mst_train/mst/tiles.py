"""How many tokens a tile has: from settings that are the same on every process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from fivefold import UserError
from fivefold_lm.offload.sizes import UNITS, parse_size

from ..config import BudgetConfig, PlannedBudget

LEAST_BUDGET = 64 * 2**20
SHARE = 0.02
STEP = 256
MLP_TENSORS = 6
"""Tensors of width I that are alive in the backward of a gated MLP's tile."""
HEAD_TENSORS = 3
"""Of the size of a chunk's scores that may be alive at a time, float32 counted as itself."""


PLANNED_PARTS = 64
"""Tiles that a plan runs at most where the wide tensors of all of them are kept."""


def cut(total: int, size: int, *, is_planned: bool = False) -> Iterator[slice]:
    """Yield the rows of every tile; none is empty.

    Args:
        total: rows.
        size: of a tile.
        is_planned: run on tensors without memory: tiles between the second and the last do what the
            second did and leave nothing behind, so they are left out.
    """
    starts = range(0, total, size)
    chosen = [*starts[:2], starts[-1]] if is_planned and len(starts) > 3 else starts
    for start in chosen:
        yield slice(start, min(start + size, total))


def kept_tile(size: int, total: int, *, is_planned: bool) -> int:
    """Return the rows of a tile where every tile's wide tensors are kept for backward.

    A plan takes fewer, larger tiles: what is kept is the same, and one tile at work is small beside
    all of them.
    """
    return max(size, -(-total // PLANNED_PARTS)) if is_planned else size


def device_memory(device: torch.device) -> int:
    """Return the bytes of a device: an accelerator's own memory, a CPU's main memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on this system
        return 0


def tile_budget(budget: BudgetConfig, device: torch.device) -> int:
    """Return the bytes that one tile's wide tensors may take."""
    if budget.bytes:
        return parse_size(budget.bytes)
    return max(LEAST_BUDGET, int(SHARE * device_memory(device)))


def mlp_tile(budget: BudgetConfig, total: int, width: int, itemsize: int, on_cpu: bool) -> int:
    """Return the tokens of an MLP's tile.

    Args:
        budget: limits.
        total: bytes of one tile, as `tile_budget` says.
        width: I.
        itemsize: bytes of a number.
        on_cpu: whether small products are no waste.

    Raises:
        UserError: a given budget is too small for the smallest tile.
    """
    return _tile(budget, total, MLP_TENSORS * width * itemsize, on_cpu, "an MLP's")


def head_chunk(budget: BudgetConfig, total: int, vocab: int, itemsize: int, on_cpu: bool) -> int:
    """Return the tokens of a head's chunk; scores are float32 beside their own format.

    Raises:
        UserError: a given budget is too small for the smallest chunk.
    """
    wide = HEAD_TENSORS * max(itemsize, 4) if itemsize >= 4 else 4 + 2 * itemsize
    return _tile(budget, total, wide * vocab, on_cpu, "the head's")


def _rounded_up(size: int) -> str:
    """Return bytes in whole units, as many as hold them: `in_units` may round down."""
    unit = next((each for each in ("MiB", "KiB") if size > UNITS[each]), "B")
    return f"{-(-size // UNITS[unit])}{unit}"


def _tile(budget: BudgetConfig, total: int, per_token: int, on_cpu: bool, whose: str) -> int:
    least = budget.min_tile or (1 if on_cpu else 1024)
    tokens = total // per_token
    is_given = budget.bytes and not isinstance(budget, PlannedBudget)
    if is_given and tokens < least:
        raise UserError(
            f"too small for {whose} smallest tile of {least} tokens",
            setting="training.budget.bytes",
            value=budget.bytes,
            remedy=f"give {_rounded_up(least * per_token)} or more"
            + (", or lower training.budget.min_tile" if least > 1 else ""),
        )
    if tokens >= STEP:
        tokens -= tokens % STEP
    return int(min(max(tokens, least), budget.max_tile))
