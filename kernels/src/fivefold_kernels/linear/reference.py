"""The product and the formats of packed matrices, written to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Float
from torch import Tensor

from ..pointwise.reference import silu_mul

GROUP = 32
"""Inputs that share a scale in Q4 and Q8, as in GGUF blocks."""


class Format(IntEnum):
    """How the numbers of a packed matrix are stored."""

    F32 = 0
    BF16 = 1
    I8 = 2
    """Eight bits, one scale an output."""
    Q4 = 3
    """Four bits between a minimum and a maximum, by groups of 32 inputs (GGUF's Q4_1)."""
    Q8 = 4
    """Eight bits, one scale a group of 32 inputs (GGUF's Q8_0)."""


def rounded_rows(rows: Float[Tensor, "row in"], format: Format) -> Float[Tensor, "row in"]:
    """Return the rows as a product of this format reads them.

    bfloat16 rounds each number; I8, Q4 and Q8 round a group of 32 to signed bytes with one scale,
    the largest magnitude / 127.
    """
    if format is Format.F32:
        return rows
    if format is Format.BF16:
        return rows.bfloat16().float()
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % GROUP))
    groups = padded.reshape(rows.shape[0], -1, GROUP)
    step = groups.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(step > 0, 1 / step, 0)
    return ((groups * inverse).round() * step).reshape(padded.shape)[:, : rows.shape[1]]


def linear(
    rows: Float[Tensor, "row in"],
    weight: Float[Tensor, "out in"],
    format: Format,
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "row out"]:
    """Multiply rows with a matrix of a format: y = x w^T + b, in float64.

    Args:
        rows: x.
        weight: w, as the format holds it.
        format: which numbers of x it multiplies with.
        bias: b.
    """
    product = rounded_rows(rows, format).double() @ weight.double().T
    return (product if bias is None else product + bias.double()).float()


def float_linear(
    x: Float[Tensor, "row in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None = None,
    add: Float[Tensor, "row out"] | None = None,
) -> Float[Tensor, "row out"]:
    """Multiply rows with a matrix of floats: y = x w^T + b + a, in float64, returned as float32.

    Args:
        x: rows, in the dtype of the weights.
        weight: w.
        bias: b.
        add: a, such as the stream that a layer's result is added to.
    """
    product = x.double() @ weight.double().T
    for term in (bias, add):
        product = product if term is None else product + term.double()
    return product.float()


def three_linears(
    x: Float[Tensor, "row in"],
    weights: Sequence[Float[Tensor, "_ in"]],
    biases: Sequence[Float[Tensor, " _"] | None],
) -> tuple[Float[Tensor, "row _"], ...]:
    """Multiply rows with three matrices, such as a layer's query, key and value.

    Args:
        x: rows, in the dtype of the weights.
        weights: three, of any numbers of outputs.
        biases: what is added to each product.
    """
    return tuple(
        float_linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)
    )


def gated_linear(
    x: Float[Tensor, "row in"],
    gate: Float[Tensor, "out in"],
    up: Float[Tensor, "out in"],
    gate_bias: Float[Tensor, " out"] | None = None,
    up_bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "row out"]:
    """Gate a product by another of the same rows: u * g / (1 + exp(-g)), in the rows' dtype.

    Args:
        x: rows, in the dtype of the weights and of the result.
        gate: weights of g.
        up: weights of u.
        gate_bias: what is added to g.
        up_bias: what is added to u.
    """
    return silu_mul(float_linear(x, gate, gate_bias), float_linear(x, up, up_bias), x.dtype)
