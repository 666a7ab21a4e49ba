"""What stands between the products of a layer, written to be believed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "row dim"],
    weight: Float[Tensor, " dim"],
    eps: float,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "row dim"]:
    """Norm rows: y = weight * x / sqrt(mean(x^2) + eps), in float64, rounded once to `dtype`."""
    wide = x.double()
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (weight.double() * wide * scale).to(dtype)


def rotate(
    x: Float[Tensor, "row head dim"],
    cosine: Float[Tensor, "row half"],
    sine: Float[Tensor, "row half"],
) -> Float[Tensor, "row head dim"]:
    """Rotate the pairs (i, i + dim / 2) of each head by the angles of its row, in float64."""
    a, b = x.double().chunk(2, dim=-1)
    c, s = cosine.double()[:, None], sine.double()[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1).float()


def silu_mul(
    gate: Float[Tensor, "*shape"],
    up: Float[Tensor, "*shape"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """Gate: up * gate / (1 + exp(-gate)), in float64, rounded once to `dtype`."""
    wide = gate.double()
    return (up.double() * wide * wide.sigmoid()).to(dtype)


def rotate_and_store(
    query: Float[Tensor, "row head dim"],
    key: Float[Tensor, "row kv_head dim"],
    value: Float[Tensor, "row kv_head dim"],
    cosine: Float[Tensor, "row half"],
    sine: Float[Tensor, "row half"],
    slots: Int[Tensor, "batch node"],
    keys: Float[Tensor, "batch kv_head slot dim"],
    values: Float[Tensor, "batch kv_head slot dim"],
) -> Float[Tensor, "row head dim"]:
    """Rotate queries and keys; write keys and values into their slots; return the queries.

    Args:
        query: of each row; a row is a node of a row of the batch.
        key: likewise.
        value: likewise.
        cosine: of each row's position and each pair of a head.
        sine: likewise.
        slots: where each node's key and value go; of one slot the last writer stays.
        keys: the cache, written in its own dtype.
        values: likewise.

    Returns:
        The rotated queries, in the dtype of the cache.
    """
    batch, nodes = slots.shape
    owner = torch.arange(batch, device=slots.device).repeat_interleave(nodes)
    keys[owner, :, slots.reshape(-1)] = rotate(key, cosine, sine).to(keys.dtype)
    values[owner, :, slots.reshape(-1)] = value.to(values.dtype)
    return rotate(query, cosine, sine).to(keys.dtype)
