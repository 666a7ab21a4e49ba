"""`training=plain`: full-graph training on one device, what every other method is compared with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from fivefold import UserError
from jaxtyping import Float
from torch import Tensor

from ..config import PlainConfig
from .edges import graph_edges
from .graph import GraphData
from .loss import node_loss, num_terms
from .memory import PeakBytes, held_bytes
from .optimizer import (
    clip_by_norm,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    square_sum,
)
from .plan import LayerPlan, Masks
from .training import EpochReport, Session


class PlainTraining:
    """One process, one device, every value fresh."""

    def __init__(self, plan: LayerPlan, data: GraphData, session: Session) -> None:
        options, device, dtype = session.options, session.device, session.dtype
        self._options, self._device = options, device
        self._plan = plan.to(device, dtype)
        edges = graph_edges(data, plan.norm, plan.loops, dtype)
        self._edges = edges.to(device)
        self._x = data.x.to(device, dtype)
        self._y = data.y.to(device)
        self._mask = data.train_mask.to(device)
        self._num_terms = num_terms(data)
        self._optimizer = make_optimizer(options, self._plan.parameters())
        self._names = {p: name for name, p in self._plan.named_parameters()}
        self._meter: PeakBytes | None = PeakBytes() if device.type == "cpu" else None
        self._peak: int | None = None

    def epoch(self, index: int) -> EpochReport:
        """Forward, backward, step."""
        begin = time.perf_counter()
        self._plan.train()
        self._optimizer.zero_grad(set_to_none=True)
        masks = Masks(self._plan.dropout, self._options.seed, index)
        with self._measured():
            logits = self._plan(self._x, self._edges, masks)
            loss = node_loss(logits, self._y, self._mask, self._num_terms)
            loss.backward()
        parameters = list(self._plan.parameters())
        if self._options.clip_norm > 0:
            clip_by_norm(parameters, self._options.clip_norm, square_sum(parameters))
        self._optimizer.step()
        value = float(loss.detach())
        seconds = time.perf_counter() - begin
        return EpochReport(value, seconds=seconds, seconds_compute=seconds)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        """Count the first epoch's bytes; the others run without the counter."""
        if self._meter is None:
            yield
            return
        meter, self._meter = self._meter, None
        with meter:
            yield
        weights = [*self._plan.parameters(), self._x, self._y]
        self._peak = meter.peak + held_bytes(weights)

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "node class"]:
        """Return the scores of all vertices."""
        self._plan.eval()
        scores: Tensor = self._plan(self._x, self._edges)
        return scores.cpu()

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the plan's weights on the CPU."""
        return {name: value.cpu().clone() for name, value in self._plan.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state."""
        return optimizer_tensors(self._optimizer, self._names)

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on from weights and optimizer state."""
        self._plan.load_state_dict(dict(weights))
        restore_optimizer(self._optimizer, self._names, state)

    def identity(self) -> dict[str, str | int]:
        """Return the method's name: there are no parts or cuts."""
        return {"training": "plain"}

    def facts(self) -> dict[str, float | int | str | None]:
        """Return that nothing is sent, and what was held."""
        on_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else self._peak
        return {"bytes_formula": 0, "peak_memory_bytes": peak}

    def exchange(self, note: str) -> list[str]:
        """Return the note: there is one process."""
        return [note]

    def close(self) -> None:
        """Nothing is held of other processes."""


def build(
    settings: PlainConfig, plan: LayerPlan, data: GraphData, session: Session
) -> PlainTraining:
    """Return full-graph training on one device.

    Raises:
        UserError: torchrun started several processes.
    """
    if session.world > 1:
        raise UserError(
            f"plain training runs in one process, and torchrun started {session.world}",
            setting="training",
            value="plain",
            remedy="choose training=graph_parallel or training=gnnpipe",
        )
    return PlainTraining(plan, data, session)
