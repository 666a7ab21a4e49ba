"""The Triton kernel of `gpu.py`, which checks and launches. A program is a block of numbers."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("count",))
@no_type_check
def act_mul_backward(
    gate: tl.tensor,  # becomes its gradient
    up: tl.tensor,  # likewise
    grad: tl.tensor,  # becomes act(gate) * up
    count: tl.tensor,
    activation: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Differentiate act(gate) * up for a block of numbers, in place."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_number = at < count
    g = tl.load(gate + at, is_number, other=0.0).to(tl.float32)
    u = tl.load(up + at, is_number, other=0.0).to(tl.float32)
    d = tl.load(grad + at, is_number, other=0.0).to(tl.float32)
    if activation == "silu":
        s = 1.0 / (1.0 + tl.exp(-g))
        a = g * s
        slope = s + a * (1.0 - s)
    elif activation == "gelu":
        s = 0.5 * (1.0 + tl.erf(g * 0.7071067811865476))
        a = g * s
        slope = s + g * 0.3989422804014327 * tl.exp(-0.5 * g * g)
    elif activation == "gelu_tanh":
        # 0.5 (1 + tanh z) = sigmoid(2 z): no tanh in Triton's language itself
        z = 0.7978845608028654 * (g + 0.044715 * g * g * g)
        s = 1.0 / (1.0 + tl.exp(-2.0 * z))
        a = g * s
        slope = s + 2.0 * a * (1.0 - s) * 0.7978845608028654 * (1.0 + 0.134145 * g * g)
    else:
        slope = tl.where(g > 0, 1.0, 0.0)
        a = g * slope
    tl.store(grad + at, a * u, is_number)
    tl.store(gate + at, d * u * slope, is_number)
    tl.store(up + at, d * a, is_number)
