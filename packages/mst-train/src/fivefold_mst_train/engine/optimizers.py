"""Optimizers and learning rates: AdamW, Muon, warm-up and decay, clipping, states by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from fivefold import UserError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from .config import OptimizerConfig, OptimizerKind, Schedule

Build = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""What makes an optimizer for some parameters."""

Wrap = Callable[[Build, list[nn.Parameter]], torch.optim.Optimizer]
"""How a training method makes its optimizer of a builder (`TrainingHandle.optimizer`)."""


def share_of_rate(config: OptimizerConfig, done: float) -> float:
    """Return the share of the peak rate when a share of the run is done.

    A straight rise over `warmup`, then constant, linear, or half a cosine down to `final`.

    Args:
        config: the schedule.
        done: share of the run, from 0 to 1.
    """
    done = min(max(done, 0.0), 1.0)
    if done < config.warmup:
        return max(0.02, done / config.warmup)
    rest = (done - config.warmup) / (1 - config.warmup)
    falls = {
        Schedule.CONSTANT: 1.0,
        Schedule.LINEAR: 1 - rest,
        Schedule.COSINE: 0.5 + 0.5 * math.cos(math.pi * rest),
    }
    if config.schedule is Schedule.CONSTANT:
        return 1.0
    return config.final + (1 - config.final) * falls[config.schedule]


@dataclass
class _Member:
    optimizer: torch.optim.Optimizer
    rate: float
    """Peak rate."""


class Optimizers:
    """The optimizers of a run, as one.

    Args:
        named: parameters that are trained, by name.
        config: kind, rate, decay, clipping.
        rate: peak learning rate.
        wrap: how a training method makes its optimizer; None: as it is built.

    Raises:
        UserError: nothing is trained, or Muon has no matrix to work on.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        rate: float,
        wrap: Wrap | None = None,
    ) -> None:
        self.config, self.rate = config, rate
        self.named = {name: weight for name, weight in named if weight.requires_grad}
        if not self.named:
            raise UserError(
                "no parameter is trained",
                setting="model.name",
                remedy="choose a model in floating point, or set lora.rank",
            )
        builders = _builders(self.named, config, rate)
        make = wrap or (lambda build, parameters: build(parameters))
        self.members = [_Member(make(build, part), rate) for build, part in builders]

    def set_share(self, share: float) -> float:
        """Set the learning rate to a share of its peak, and return it."""
        for member in self.members:
            for group in member.optimizer.param_groups:
                group["lr"] = member.rate * share
        return self.members[0].rate * share

    def clip(self) -> Tensor | None:
        """Scale gradients down to the largest norm that is allowed; return what the norm was."""
        if not self.config.clip:
            return None
        norm = nn.utils.clip_grad_norm_(self.named.values(), self.config.clip)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self) -> None:
        """Step every parameter."""
        for member in self.members:
            member.optimizer.step()

    def zero_grad(self) -> None:
        """Drop every gradient."""
        for member in self.members:
            member.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return every state tensor by the name of its parameter, whole, on the CPU.

        Called by all processes together: shards are gathered.
        """
        return {
            f"{name}/{key}": _whole(value)
            for name, optimizer, weight in self._owners()
            for key, value in sorted(optimizer.state.get(weight, {}).items())
            if isinstance(value, Tensor)
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take states back.

        Raises:
            ValueError: they are of other parameters.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for path, value in state.items():
            name, _, key = path.rpartition("/")
            found.setdefault(name, {})[key] = value
        owners = {name: (optimizer, weight) for name, optimizer, weight in self._owners()}
        if unknown := found.keys() - owners.keys():
            raise ValueError(f"states of other parameters: {', '.join(sorted(unknown)[:3])}")
        for name, states in found.items():
            optimizer, weight = owners[name]
            optimizer.state[weight] = {
                key: _as_of(value, weight, key) for key, value in states.items()
            }

    def _owners(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        """Yield each parameter with its name and the optimizer that steps it."""
        names = {weight: name for name, weight in self.named.items()}
        for member in self.members:
            for group in member.optimizer.param_groups:
                for weight in group["params"]:
                    yield names[weight], member.optimizer, weight


def _builders(
    named: Mapping[str, nn.Parameter], config: OptimizerConfig, rate: float
) -> list[tuple[Build, list[nn.Parameter]]]:
    """Return what builds each optimizer, with its parameters."""

    def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given = list(parameters)
        groups = [
            {"params": [w for w in given if w.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in given if w.ndim <= 1], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        filled = [group for group in groups if group["params"]]
        return torch.optim.AdamW(filled, lr=rate, betas=betas, eps=config.eps)

    def muon(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Muon(
            parameters, lr=rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    if config.name is OptimizerKind.ADAMW:
        return [(adamw, list(named.values()))]
    is_inner = {
        name: weight.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "wte"))
        for name, weight in named.items()
    }
    matrices = [weight for name, weight in named.items() if is_inner[name]]
    others = [weight for name, weight in named.items() if not is_inner[name]]
    if not matrices:
        raise UserError(
            "Muon steps matrices, and this model trains none",
            setting="optimizer.name",
            value=config.name,
            remedy="set optimizer.name=adamw",
        )
    found: list[tuple[Build, list[nn.Parameter]]] = [(muon, matrices)]
    return [*found, (adamw, others)] if others else found


def _whole(value: Tensor) -> Tensor:
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().to("cpu").clone()


def _as_of(value: Tensor, weight: Tensor, key: str) -> Tensor:
    """Return a state as its parameter is held: on its device, in its shards.

    A step count is a scalar and stays where AdamW keeps it.
    """
    if value.ndim == 0 and key == "step":
        return value.clone()
    if isinstance(weight, DTensor):
        on_device = value.to(weight.device_mesh.device_type)
        return distribute_tensor(on_device, weight.device_mesh, weight.placements)
    return value.to(weight.device)
