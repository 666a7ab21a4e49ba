"""What stands between the products of a layer, written to be believed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "row dim"], weight: Float[Tensor, " dim"], eps: float
) -> Float[Tensor, "row dim"]:
    """Norm rows: y = weight * x / sqrt(mean(x^2) + eps), in float64."""
    wide = x.double()
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (weight.double() * wide * scale).float()


def rotate(
    x: Float[Tensor, "row head dim"],
    cosine: Float[Tensor, "row half"],
    sine: Float[Tensor, "row half"],
) -> Float[Tensor, "row head dim"]:
    """Rotate the pairs (i, i + dim / 2) of each head by the angles of its row, in float64."""
    a, b = x.double().chunk(2, dim=-1)
    c, s = cosine.double()[:, None], sine.double()[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1).float()


def silu_mul(gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gate: up * gate / (1 + exp(-gate)), in float64."""
    wide = gate.double()
    return (up.double() * wide * wide.sigmoid()).float()
