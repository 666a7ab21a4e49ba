"""The processes of a run: which of them this is, what they agree on, how they share a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from fivefold import UserError
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

BACKENDS = {"cuda": "nccl", "xpu": "xccl"}


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine: its device's number."""
    _averaging: list[DistributedDataParallel] = field(default_factory=list, repr=False)
    """Modules whose gradients are averaged over processes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Return the device of this process: that of its own number on an accelerator."""
        if self.size == 1 or asked == "cpu":
            return asked
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return f"{accelerator.type}:{self.local_rank}" if accelerator else "cpu"

    def collective_device(self) -> torch.device:
        """Return the device on which processes exchange tensors."""
        return _device_of_collectives() if self.size > 1 else torch.device("cpu")

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def gather(self, text: str) -> list[str]:
        """Return every process's text, by rank."""
        if self.size == 1:
            return [text]
        device = _device_of_collectives()
        # a byte at the end, since no tensor is made of an empty buffer
        data = torch.frombuffer(bytearray(f"{text}\n".encode()), dtype=torch.uint8).to(device)
        lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([data.numel()], device=device))
        longest = max(int(length) for length in lengths)
        rows = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in lengths]
        dist.all_gather(rows, nn.functional.pad(data, (0, longest - data.numel())))
        return [
            bytes(row[: int(length) - 1].tolist()).decode()
            for row, length in zip(rows, lengths, strict=True)
        ]

    def agree(self, settings: Mapping[str, object]) -> None:
        """Refuse to go on when processes were given different settings.

        They would wait for each other for ever, or train different models.

        Raises:
            UserError: in every process, with the first setting that differs and who has what.
        """
        everyone = [json.loads(text) for text in self.gather(json.dumps(settings, default=str))]
        for key in sorted({key for each in everyone for key in each}):
            values = [each.get(key) for each in everyone]
            other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
            if other is not None:
                raise UserError(
                    f"process 0 and process {other} have different settings: "
                    f"{key} is {values[0]} and {values[other]}",
                    setting=key,
                    value=values[self.rank],
                    remedy="start every process with the same words",
                )

    def average(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over processes (DDP), or itself if alone."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        ids = None if device.type == "cpu" else [device.index]
        made = DistributedDataParallel(module, device_ids=ids, forward_sync_buffers=False)
        self._averaging.append(made)
        return made

    def part(self) -> None:
        """Leave the group of processes; what averaged gradients can do so no longer.

        DDP's reducer holds the group. Were it the last to do so, as where an error keeps the module
        alive, it would end gloo's threads while it holds Python's lock, for which a thread may wait
        that drops the tensors of the last exchange: neither would ever go on.
        """
        while self._averaging:
            module = self._averaging.pop()
            del module.logger, module.reducer
        dist.destroy_process_group()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let every process end with the first error that one of them meets inside.

        Nothing inside may wait for other processes: one that failed would not be there.

        Raises:
            UserError: this process met one, or another did.
        """
        error: UserError | None = None
        try:
            yield
        except UserError as met:
            error = met
        if error is not None and self.size == 1:
            raise error
        said = self.gather(str(error) if error else "") if self.size > 1 else []
        if error is not None:
            raise error
        first = next((rank for rank, text in enumerate(said) if text), None)
        if first is not None:
            raise UserError(f"process {first} cannot go on: {said[first]}")


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone, do nothing.

    Args:
        device: as the user set it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    kind = torch.device(ranks.device(device)).type if device != "auto" else _accelerator()
    if kind in BACKENDS:
        torch.accelerator.set_device_index(ranks.local_rank)
    owns = not dist.is_initialized()
    if owns:
        dist.init_process_group(BACKENDS.get(kind, "gloo"))
    try:
        yield ranks
    finally:
        if owns:
            ranks.part()


def sharded(model: PreTrainedModel, ranks: Ranks) -> None:
    """Divide every weight of a model among the processes (FSDP2), in place.

    Each decoder layer is a unit of its own: its weights are gathered once for its forward and once
    for its backward, however many tiles run in between. Embedding, final norm and head belong to
    the root unit, which stays whole from its forward to its backward, so that chunks of the head
    gather nothing.

    Source: arXiv 2407.15892's reference does not shard; torchtitan's parallelize_llama does so.
    """
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (ranks.size,))
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            for layer in module:
                if isinstance(layer, GradientCheckpointingLayer):
                    fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def without_sync(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Let gradients of all but the last micro-batch stay where they are."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        silent: AbstractContextManager[None] = module.no_sync()
        return silent
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_last)
    return nullcontext()


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found else "cpu"


def _device_of_collectives() -> torch.device:
    if dist.get_backend() == "gloo":
        return torch.device("cpu")
    return torch.device(_accelerator(), torch.accelerator.current_device_index())
