"""Whole-layer activation checkpointing of a Hugging Face model, reversibly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fivefold import UserError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .._words import Offload
from .discovery import Report
from .offload import HostStore
from .undo import Undo


def find_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that transformers can checkpoint, with their names.

    Raises:
        UserError: there is none.
    """
    found: list[tuple[str, nn.Module]] = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no layers that can be checkpointed",
            setting="training.checkpoint.enabled",
            value=True,
            remedy="set it to false, or take a model of transformers",
        )
    return found


def enable_checkpointing(
    undo: Undo, model: nn.Module, offload: Offload, but: frozenset[str] = frozenset()
) -> list[Report]:
    """Let every layer keep its input alone and be computed again in backward.

    Args:
        undo: takes it back.
        model: any model of transformers.
        offload: where inputs wait.
        but: layers that do this themselves (block tiling).
    """
    draws = any(isinstance(each, nn.modules.dropout._DropoutNd) for each in model.modules())
    run: Callable[..., Any] = partial(
        checkpoint, use_reentrant=False, preserve_rng_state=draws or _drops_attention(model)
    )
    if offload is Offload.CPU:
        run = partial(_offloaded, HostStore(), run)
    rows = []
    for name, layer in find_layers(model):
        undo.set(layer, "_gradient_checkpointing_func", run)
        undo.set(layer, "gradient_checkpointing", name not in but)
        if name not in but:
            where = "its input in host memory" if offload is Offload.CPU else "keeps its input"
            rows.append(Report(name, "checkpointed", where))
    return rows


def _offloaded(
    store: HostStore, run: Callable[..., Any], function: Callable[..., Any], *args: Any
) -> Any:
    """Run a checkpoint whose inputs go to the host; what the layer itself saves does not."""
    with store:
        return run(function, *args)


def _drops_attention(model: nn.Module) -> bool:
    return any(getattr(each, "attention_dropout", 0) for each in model.modules())
