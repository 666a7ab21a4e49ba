"""Backward of activation times up projection on a GPU, by Triton; twin of `reference.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedError
from ..triton_modules import check_dense, load_kernels

KERNELS = f"{__package__}.gpu_kernels"
BLOCK = 1024  # numbers of a program
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


def act_mul_backward(
    gate: Float[Tensor, "*shape"],
    up: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    activation: str,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Differentiate h = act(gate) * up in float32, in one pass and in place.

    Six tensors' bytes are moved and none is made: h takes the place of `grad`, the gradients those
    of `gate` and `up`.

    Raises:
        UnsupportedError: no Triton or no GPU, tensors that are not contiguous or of one shape and
            dtype, or an activation that is not in `ACTIVATIONS`.
    """
    if activation not in ACTIVATIONS:
        raise UnsupportedError(f"activation {activation!r}; this kernel takes {ACTIVATIONS}")
    kernels = load_kernels(KERNELS)
    check_dense(kernels, gate, up, grad)
    if not gate.shape == up.shape == grad.shape or not gate.dtype == up.dtype == grad.dtype:
        shapes = [(tuple(each.shape), each.dtype) for each in (gate, up, grad)]
        raise UnsupportedError(f"gate, up and gradient differ: {shapes}")
    count = gate.numel()
    launch = kernels.act_mul_backward[(-(-count // BLOCK),)]
    if gate.device.type == "cpu":
        launch(gate, up, grad, count, activation=activation, block=BLOCK)
    else:
        with torch.accelerator.device_index(gate.device.index):
            launch(gate, up, grad, count, activation=activation, block=BLOCK)
    return grad, gate, up
