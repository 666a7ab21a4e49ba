"""The optimizer of a rank's own weights, and clipping by the norm over all ranks' weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainOptions

_KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    options: TrainOptions, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer that the options name, over some weights."""
    kind = _KINDS[options.optimizer]
    kept = list(parameters) or [nn.Parameter(torch.zeros(0))]  # a rank without weights still steps
    arguments: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    return kind(kept, **arguments)


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors that an optimizer keeps beside its weights."""
    return [
        value
        for entries in optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    ]


def square_sum(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the sum of squares of all gradients, in float64: ranks add theirs."""
    squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)


def clip_by_norm(parameters: Iterable[nn.Parameter], max_norm: float, squares: Tensor) -> None:
    """Scale gradients down so that the norm over all ranks is at most `max_norm`.

    Args:
        parameters: this rank's weights.
        max_norm: 0 leaves gradients as they are.
        squares: `square_sum` over all ranks.
    """
    if max_norm <= 0:
        return
    scale = (max_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(scale.to(parameter.grad.dtype))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]
) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors: `optimizer/{weight}/{entry}`."""
    found = {}
    states: Mapping[Any, Mapping[str, Any]] = optimizer.state
    for parameter, entries in states.items():
        for key, value in entries.items():
            if parameter in names and value is not None:
                tensor = torch.as_tensor(value).detach()
                found[f"optimizer/{names[parameter]}/{key}"] = tensor.to("cpu").clone()
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    state: Mapping[str, Tensor],
) -> None:
    """Put back what `optimizer_tensors` returned."""
    for parameter, name in names.items():
        prefix = f"optimizer/{name}/"
        entries = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        if entries:
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.clone().to(parameter)
                for key, value in entries.items()
            }
