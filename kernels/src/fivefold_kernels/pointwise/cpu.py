"""RMS norm, rotary positions and SiLU times gate on the CPU; the twins of `reference.py`."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedError
from ..native.arguments import check_floats


def rms_norm(
    x: Float[Tensor, "row dim"],
    weight: Float[Tensor, " dim"],
    eps: float,
    *,
    library: ctypes.CDLL,
) -> Float[Tensor, "row dim"]:
    """Norm rows: y = weight * x / sqrt(mean(x^2) + eps).

    Raises:
        UnsupportedError: tensors of another kind, place or shape.
    """
    check_floats("rows", x)
    check_floats("weight", weight, x.shape[-1:])
    if x.ndim != 2:
        raise UnsupportedError(f"rows {tuple(x.shape)}; the kernel takes [row, dim]")
    given, scale, out = x.float().contiguous(), weight.float().contiguous(), torch.empty(x.shape)
    library.ff_rms_norm(given.data_ptr(), scale.data_ptr(), *x.shape, eps, out.data_ptr())
    return out


def rotate(
    x: Float[Tensor, "row head dim"],
    cosine: Float[Tensor, "row half"],
    sine: Float[Tensor, "row half"],
    *,
    library: ctypes.CDLL,
) -> Float[Tensor, "row head dim"]:
    """Rotate the pairs (i, i + dim / 2) of each head by the angles of its row.

    Raises:
        UnsupportedError: tensors of another kind, place or shape.
    """
    check_floats("heads", x)
    if x.ndim != 3 or x.shape[2] % 2:
        raise UnsupportedError(f"heads {tuple(x.shape)}; the kernel takes [row, head, even dim]")
    for name, angles in (("cosine", cosine), ("sine", sine)):
        check_floats(name, angles, (x.shape[0], x.shape[2] // 2))
    out = x.float().clone(memory_format=torch.contiguous_format)
    c, s = cosine.float().contiguous(), sine.float().contiguous()
    library.ff_rotate(out.data_ptr(), c.data_ptr(), s.data_ptr(), *x.shape)
    return out


def silu_mul(
    gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"], *, library: ctypes.CDLL
) -> Float[Tensor, "*shape"]:
    """Gate: up * gate / (1 + exp(-gate)).

    Raises:
        UnsupportedError: tensors of another kind, place or shape.
    """
    check_floats("gate", gate)
    check_floats("up", up, gate.shape)
    g, u, out = gate.float().contiguous(), up.float().contiguous(), torch.empty(gate.shape)
    library.ff_silu_mul(g.data_ptr(), u.data_ptr(), out.numel(), out.data_ptr())
    return out
