"""Keeping the inputs of checkpointed layers in host memory until backward.

After tiling, these inputs are the largest term that grows with the sequence. Where the model is on
an accelerator they are copied to pinned memory on a stream of their own, while the layer runs, and
fetched one layer ahead in backward. On a CPU they are copied to memory that torch's operations did
not make, so that counting sees the device's share alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEAST = 1 << 12
"""Elements below which a tensor stays where it is."""


@dataclass
class _Held:
    """One tensor in host memory."""

    host: Tensor
    device: torch.device
    copied: Any = None
    """Event after which `host` holds the numbers; the shape of a tensor that is only planned."""
    fetched: Tensor | None = None
    """The tensor on the device again, where it was fetched ahead."""
    ready: Any = None
    """Event after which `fetched` may be read."""
    before: _Held | None = None
    """What was saved before it, which backward wants next."""


class HostStore(torch.autograd.graph.saved_tensors_hooks):
    """Saved-tensor hooks around a checkpoint: what it saves (its input) goes to the host."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._streams: dict[torch.device, Any] = {}
        self._last: _Held | None = None
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor | _Held:
        if tensor.numel() < LEAST or not tensor.is_floating_point():
            return tensor
        if isinstance(tensor, nn.Parameter):  # saved too, and stays
            return tensor
        if tensor.device.type == "meta":  # planned: leaves no bytes on the device
            return _Held(tensor.new_empty(0).expand(0), tensor.device, tuple(tensor.shape))
        if tensor.device.type == "cpu":
            held = _Held(_host_copy(tensor), tensor.device)
        else:
            held = self._copy_out(tensor)
        held.before, self._last = self._last, held
        return held

    def _unpack(self, packed: Tensor | _Held) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if packed.device.type == "meta":
            return torch.empty(packed.copied, dtype=packed.host.dtype, device="meta")
        if packed is self._last:
            self._last = packed.before
        if packed.device.type == "cpu":
            return packed.host.clone()
        if packed.fetched is None:
            self._fetch(packed)
        if packed.before is not None and packed.before.fetched is None:
            self._fetch(packed.before)
        current = torch.get_device_module(packed.device.type).current_stream(packed.device)
        current.wait_event(packed.ready)
        fetched, packed.fetched, packed.before = packed.fetched, None, None
        assert fetched is not None
        fetched.record_stream(current)
        return fetched

    def _stream(self, device: torch.device) -> Any:
        if device not in self._streams:
            self._streams[device] = torch.get_device_module(device.type).Stream(device)
        return self._streams[device]

    def _copy_out(self, tensor: Tensor) -> _Held:
        module, stream = torch.get_device_module(tensor.device.type), self._stream(tensor.device)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream.wait_stream(module.current_stream(tensor.device))
        with module.stream(stream):
            host.copy_(tensor.detach(), non_blocking=True)
        tensor.record_stream(stream)
        return _Held(host, tensor.device, stream.record_event())

    def _fetch(self, held: _Held) -> None:
        module, stream = torch.get_device_module(held.device.type), self._stream(held.device)
        stream.wait_event(held.copied)
        with module.stream(stream):
            held.fetched = held.host.to(held.device, non_blocking=True)
        held.ready = stream.record_event()


def _host_copy(tensor: Tensor) -> Tensor:
    """Copy a CPU tensor into memory that numpy owns; a half-precision one by its bits."""
    count = tensor.numel() * tensor.element_size()
    host = torch.from_numpy(np.empty(count, dtype=np.uint8)).view(tensor.dtype)
    return host.view(tensor.shape).copy_(tensor.detach())
