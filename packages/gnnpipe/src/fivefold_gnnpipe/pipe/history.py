"""The history's rows: their number format, and how far they are from today's."""

from __future__ import annotations

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor

from .config import HistoryDtype

_DTYPES = {HistoryDtype.FLOAT16: torch.float16, HistoryDtype.BFLOAT16: torch.bfloat16}


def zero_history(
    rows: int, width: int, dtype: torch.dtype, kept: HistoryDtype, device: torch.device
) -> Float[Tensor, "row dim"]:
    """Return a history of zeros.

    Args:
        rows: vertices.
        width: columns.
        dtype: number format of the activations.
        kept: number format of the history.
        device: where it is kept.
    """
    return torch.zeros(rows, width, dtype=_DTYPES.get(kept, dtype), device=device)


def require_finite(history: Float[Tensor, "row dim"]) -> None:
    """Refuse a history that a smaller number format does not hold.

    Raises:
        UserError: a value has become infinite.
    """
    if history.dtype in _DTYPES.values() and not bool(torch.isfinite(history).all()):
        raise UserError(
            f"a row of the history passes the range of {history.dtype}",
            setting="training.history.dtype",
            remedy="set it to bfloat16 or float32",
        )


def squares(
    history: Float[Tensor, "row dim"] | None, fresh: Float[Tensor, "row dim"]
) -> Float[Tensor, " 2"]:
    """Return the squares of the distance between history and fresh rows, and of the fresh.

    Without a history nothing is stale: the distance is 0.
    """
    size = fresh.double().square().sum()
    if history is None:
        return torch.stack([torch.zeros_like(size), size])
    return torch.stack([(history.to(fresh.dtype) - fresh).double().square().sum(), size])
