"""What stands in the middle of a gated MLP in backward, written to be believed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
"""The activations that kernels know, by name."""


def act_mul_backward(
    gate: Float[Tensor, "*shape"],
    up: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    activation: str,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Differentiate h = act(gate) * up by autograd in float64, rounded once to the dtype given.

    Args:
        gate: what the activation is applied to.
        up: what it is multiplied with.
        grad: gradient of h.
        activation: one of `ACTIVATIONS`.

    Returns:
        h itself, the gradient of `gate` and the gradient of `up`.
    """
    with torch.enable_grad():
        wide_gate = gate.detach().double().requires_grad_()
        wide_up = up.detach().double().requires_grad_()
        product = ACTIVATIONS[activation](wide_gate) * wide_up
        grads = torch.autograd.grad(product, (wide_gate, wide_up), grad.double())
    of_gate, of_up = (each.to(gate.dtype) for each in grads)
    return product.detach().to(gate.dtype), of_gate, of_up
