"""What surrounds a forward pass and must surround its repetition: autocast and random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Autocast:
    """Autocast of one device type, as it was when this was captured."""

    device_type: str
    is_enabled: bool
    dtype: torch.dtype | None

    @classmethod
    def capture(cls, device: torch.device) -> Autocast:
        """Read the state that holds now for a device."""
        kind = device.type
        if not torch.amp.is_autocast_available(kind):
            return cls(kind, False, None)
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Let that state hold again, without the cache of cast weights.

        A weight that was cast under `no_grad` would be taken from the cache where its gradient is
        wanted, and would have none.
        """
        if self.dtype is None:
            yield
            return
        with torch.autocast(
            self.device_type, dtype=self.dtype, enabled=self.is_enabled, cache_enabled=False
        ):
            yield


def draws_numbers(module: nn.Module) -> bool:
    """Whether a module's forward depends on random numbers now."""
    return any(
        isinstance(each, nn.modules.dropout._DropoutNd) and each.training and each.p > 0
        for each in module.modules()
    )


@dataclass(frozen=True)
class RandomState:
    """State of the generators that a module on a device draws from."""

    cpu: Tensor
    device: torch.device
    accelerator: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        """Read the state now."""
        held = None
        if device.type not in ("cpu", "meta"):
            held = torch.get_device_module(device.type).get_rng_state(device)
        return cls(torch.get_rng_state(), device, held)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Draw the same numbers again; afterwards the generators go on as if nothing was drawn."""
        with ExitStack() as stack:
            if self.accelerator is None:
                stack.enter_context(torch.random.fork_rng(devices=[]))
            else:
                kind = self.device.type
                stack.enter_context(
                    torch.random.fork_rng(devices=[self.device.index or 0], device_type=kind)
                )
                torch.get_device_module(kind).set_rng_state(self.accelerator, self.device)
            torch.set_rng_state(self.cpu)
            yield
