"""The ways of training that a plan compares, and what each takes on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from .._words import Offload, Recompute
from ..config import BlockConfig, CheckpointConfig, FaithfulConfig, MstConfig, PlannedBudget
from .methods import FaithfulMethod, apply_layers
from .patch import apply_mst
from .planned_model import meta_model
from .planner import Apply, Peak, longest_sequence, predict_peak
from .tiles import LEAST_BUDGET, SHARE

LEAST_TILE = 1024
"""Tokens of a tile that a plan for a device takes at least, unless settings say otherwise."""


@dataclass(frozen=True)
class Statics:
    """What does not depend on the sequence, in bytes."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Scheme:
    """One way of training."""

    name: str
    apply: Apply
    optimizer_in_backward: bool = False


def for_device(config: MstConfig, memory: int) -> MstConfig:
    """Return settings whose tiles are those of a device of so much memory."""
    budget = replace(config.budget, min_tile=config.budget.min_tile or LEAST_TILE)
    if not budget.bytes:
        share = f"{max(LEAST_BUDGET, int(SHARE * memory))}B"
        budget = PlannedBudget(share, budget.min_tile, budget.max_tile)
    return replace(config, budget=budget)


def schemes(config: MstConfig) -> list[Scheme]:
    """Return what `training=mst` is compared with, itself, and itself with more.

    Args:
        config: of `training=mst`, with tiles for the device.
    """
    in_backward = config.optimizer_in_backward

    def mst(settings: MstConfig) -> Apply:
        return lambda model: apply_mst(model, replace(settings, sequence_parallel=1))

    faithful = FaithfulMethod(FaithfulConfig())
    offloaded = replace(config, checkpoint=CheckpointConfig(True, Offload.CPU))
    compared = [
        Scheme("plain", lambda model: apply_layers(model, None)),
        Scheme("recompute", lambda model: apply_layers(model, Offload.NONE)),
        Scheme("mst_faithful", faithful.apply, in_backward),
        Scheme("mst", mst(config), in_backward),
        Scheme("mst+offload", mst(offloaded), in_backward),
    ]
    if config.mlp.enabled and config.checkpoint.enabled:
        per_tile = replace(config.mlp, recompute=Recompute.PER_TILE)
        block = replace(config, mlp=per_tile, block=BlockConfig(True))
        compared.append(Scheme("mst+block", mst(block), in_backward))
    return compared


def statics(
    config: PretrainedConfig, dtype: torch.dtype, optimizer: str, in_backward: bool
) -> Statics:
    """Return the bytes of weights, gradients and optimizer state of a whole model.

    Args:
        config: of the model.
        dtype: of all three.
        optimizer: `adamw` (two moments) or `sgd` (none).
        in_backward: whether gradients are dropped one by one: the largest is left.
    """
    model = meta_model(config, int(config.num_hidden_layers), dtype)
    sizes = [weight.numel() * weight.element_size() for weight in model.parameters()]
    return Statics(
        sum(sizes),
        max(sizes) if in_backward else sum(sizes),
        2 * sum(sizes) if optimizer == "adamw" else 0,
    )


@dataclass(frozen=True)
class Planned:
    """What a scheme takes at a length, and how far it reaches."""

    scheme: Scheme
    fixed: Statics
    peak: Peak
    longest: int
    """Tokens of the longest sequence that fits; 0: none."""

    @property
    def total(self) -> int:
        """Bytes at the length that was asked for."""
        return self.fixed.total + self.peak.total


def plan(
    scheme: Scheme,
    config: PretrainedConfig,
    dtype: torch.dtype,
    optimizer: str,
    batch_size: int,
    seq_len: int,
    room: int,
) -> Planned:
    """Reckon one scheme.

    Args:
        scheme: the way of training.
        config: of the model.
        dtype: of weights, gradients, optimizer state and activations.
        optimizer: `adamw` or `sgd`.
        batch_size: rows.
        seq_len: tokens of a row.
        room: bytes of the device that may be used.
    """
    fixed = statics(config, dtype, optimizer, scheme.optimizer_in_backward)
    peak = predict_peak(config, scheme.apply, batch_size, seq_len, dtype)
    left = room - fixed.total
    longest = 0
    if left > 0:
        known = {seq_len: peak.total}
        longest = longest_sequence(config, scheme.apply, batch_size, dtype, left, known=known)
    return Planned(scheme, fixed, peak, longest)


def tile_rows(apply: Callable[[nn.Module], Any], config: PretrainedConfig, dtype: torch.dtype) -> (
    list[dict[str, object]]
):  # fmt: skip
    """Return which modules a method works on, those of all layers in one row."""
    model = meta_model(config, int(config.num_hidden_layers), dtype)
    with apply(model) as handle:
        return collapsed(handle.report())


def collapsed(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """Join rows that differ in the number of their layer alone."""
    found: dict[tuple[str, ...], dict[str, object]] = {}
    for row in rows:
        name = ".".join("*" if part.isdigit() else part for part in row["module"].split("."))
        key = (name, row["state"], row["why"])
        kept = found.setdefault(
            key, {"module": name, "count": 0, "state": row["state"], "why": row["why"]}
        )
        kept["count"] = int(str(kept["count"])) + 1
    return list(found.values())
