"""Backward of one tile of a gated MLP of plain linear layers, by hand.

With g = x Wg^T, u = x Wu^T, h = act(g) u, y = h Wd^T and the gradient dy:

    dh = dy Wd      dWd = dy^T h
    dg = dh u act'(g), du = dh act(g)      dWg = dg^T x, dWu = du^T x      dx = dg Wg + du Wu

The down projection is not computed again, products of weights' gradients are added up in place, and
the middle line is one kernel on a GPU, which makes no tensor: three of width I are alive instead
of six.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fivefold import UserError
from fivefold_kernels import UnsupportedError
from fivefold_kernels.gated import gpu
from torch import Tensor, nn
from torch.nn import functional as F

from .._words import Kernel
from .ambient import Autocast
from .sums import GradientSums

Middle = Callable[[Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor, Tensor]]
"""(gate, up, grad of h, activation) -> (h, grad of gate, grad of up); may overwrite its inputs."""
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def torch_middle(
    gate: Tensor, up: Tensor, grad: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate h = act(gate) * up with torch's own operations."""
    of_gate = grad * up
    if activation == "silu":
        active = F.silu(gate)
        of_gate = torch.ops.aten.silu_backward(of_gate, gate)
    elif activation == "relu":
        active = F.relu(gate)
        of_gate.mul_(gate > 0)
    else:
        how = "tanh" if activation == "gelu_tanh" else "none"
        active = F.gelu(gate, approximate=how)
        of_gate = torch.ops.aten.gelu_backward(of_gate, gate, approximate=how)
    of_up = grad.mul_(active)
    return active.mul_(up), of_gate, of_up


def choose_middle(kernel: Kernel, device: torch.device) -> Middle:
    """Return what computes the middle of backward.

    Raises:
        UserError: Triton was asked for and does not run here.
    """
    if kernel is Kernel.TORCH or (kernel is Kernel.AUTO and device.type != "cuda"):
        return torch_middle
    try:
        gate, up, grad = (torch.ones(2, device=device) for _ in range(3))
        gpu.act_mul_backward(gate, up, grad, "silu")
    except UnsupportedError as error:
        if kernel is Kernel.AUTO:
            return torch_middle
        raise UserError(
            f"the Triton kernel does not run here: {error}",
            setting="training.mlp.kernel",
            value=kernel,
            remedy="set training.mlp.kernel=auto",
        ) from error
    return gpu.act_mul_backward


@dataclass(frozen=True)
class GatedBackward:
    """Differentiates a tile of one gated MLP; see the head of this file."""

    module: nn.Module
    activation: str
    middle: Middle

    def suits(self, autocast: Autocast) -> bool:
        """Whether it is a gated MLP of plain linear layers still, whose inputs nothing casts."""
        if not self.activation or autocast.is_enabled:
            return False
        return all(type(getattr(self.module, name)) is nn.Linear for name in _PROJECTIONS)

    @property
    def is_trained(self) -> bool:
        """Whether every weight is."""
        return all(each.requires_grad for each in self.parameters)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights and biases, in the order in which sums are taken."""
        found = []
        for name in _PROJECTIONS:
            layer = getattr(self.module, name)
            found += [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        return found

    def __call__(self, x: Tensor, grad: Tensor, sums: GradientSums) -> Tensor:
        """Add the gradients of weights and biases; return that of x, [row, in]."""
        gate_proj, up_proj, down_proj = (getattr(self.module, name) for name in _PROJECTIONS)
        gate, up = gate_proj(x), up_proj(x)
        of_product = grad @ down_proj.weight
        product, of_gate, of_up = self.middle(gate, up, of_product, self.activation)
        del gate, up, of_product
        place = self._add(sums, 0, gate_proj, of_gate, x)
        place = self._add(sums, place, up_proj, of_up, x)
        self._add(sums, place, down_proj, grad, product)
        of_x: Tensor = of_gate @ gate_proj.weight
        return of_x.addmm_(of_up, up_proj.weight)

    @staticmethod
    def _add(sums: GradientSums, place: int, layer: nn.Linear, grad: Tensor, x: Tensor) -> int:
        sums.add_product(place, grad, x)
        if layer.bias is not None:
            sums.add(place + 1, grad.sum(0))
            place += 1
        return place + 1
