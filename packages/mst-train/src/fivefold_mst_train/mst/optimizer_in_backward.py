"""Stepping each parameter as soon as its gradient is complete, and dropping the gradient.

No more than one layer's gradients are alive at a time: 2 bytes a parameter less in bfloat16. It
needs exactly one accumulation a parameter and step, which tiled MLPs and the chunked head keep.
Source: arXiv 2306.09782 (LOMO); torch's tutorial on `register_post_accumulate_grad_hook`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from fivefold import UserError
from torch import nn
from torch.optim import Optimizer

from ..protocol import OptimizerBuilder


class OptimizerInBackward(Optimizer):
    """One optimizer a parameter behind the face of one; `step` has nothing left to do."""

    def __init__(self, build: OptimizerBuilder, parameters: Iterable[nn.Parameter]) -> None:
        """Make an optimizer for every parameter and hook it to the parameter's gradient.

        Raises:
            UserError: in a run of several processes, where gradients are exchanged later.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise UserError(
                "parameters are stepped before processes exchange their gradients",
                setting="training.optimizer_in_backward",
                value=True,
                remedy="set it to false, or train in one process",
            )
        self._parameters = [each for each in parameters if each.requires_grad]
        self._each = [build([parameter]) for parameter in self._parameters]
        groups = [group for each in self._each for group in each.param_groups]
        super().__init__(groups, dict(self._each[0].defaults) if self._each else {})
        self._share()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._stepping(each))
            for parameter, each in zip(self._parameters, self._each, strict=True)
        ]

    def _share(self) -> None:
        """Let what is set in our groups (`lr`) and in our `state` be what each of them reads."""
        groups = iter(self.param_groups)
        for each in self._each:
            each.param_groups = [next(groups) for _ in each.param_groups]
            each.state = self.state

    @staticmethod
    def _stepping(optimizer: Optimizer) -> Callable[[torch.Tensor], None]:
        def step(parameter: torch.Tensor) -> None:
            optimizer.step()
            parameter.grad = None

        return step

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing: every parameter was stepped in backward."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: every gradient was dropped in backward."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of all parameters back."""
        super().load_state_dict(state_dict)
        self._share()

    def remove(self) -> None:
        """Take the hooks off; gradients stay from then on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
