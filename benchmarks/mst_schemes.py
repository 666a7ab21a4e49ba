"""The ways of training that `mst.py` compares, on models with random weights, and one step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from fivefold_mst_train import LiveBytes, MstConfig, apply_mst
from fivefold_mst_train._words import Offload
from fivefold_mst_train.config import (
    BlockConfig,
    CheckpointConfig,
    FaithfulConfig,
    HeadConfig,
    MlpConfig,
)
from fivefold_mst_train.mst.methods import FaithfulMethod, apply_layers
from fivefold_mst_train.mst.shapes import shape_config
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

Apply = Callable[[nn.Module], AbstractContextManager[Any]]
TILE = 1024
"""Tokens of a tile and of a chunk of the head where nothing else is said."""


def mst(
    tile: int = TILE, chunk: int = TILE, *, block: bool = False, offload: bool = False
) -> Apply:
    """Return what puts mini-sequences of so many tokens on a model."""
    config = MstConfig(
        mlp=MlpConfig(tile_tokens=tile),
        head=HeadConfig(chunk_tokens=chunk),
        block=BlockConfig(block),
        checkpoint=CheckpointConfig(True, Offload.CPU if offload else Offload.NONE),
    )
    return lambda model: apply_mst(model, config)


def plain(model: nn.Module) -> AbstractContextManager[Any]:
    """Leave a model as it is."""
    return apply_layers(model, None)


def checkpointed(model: nn.Module) -> AbstractContextManager[Any]:
    """Checkpoint a model's layers, as transformers does."""
    return apply_layers(model, Offload.NONE)


faithful: Apply = FaithfulMethod(FaithfulConfig()).apply
"""The source's own scheme."""


def smollm2(layers: int = 30) -> PretrainedConfig:
    """Return the shape of SmolLM2-135M, or of its first layers; positions reach everywhere."""
    return _cut("smollm2", layers)


def llama_slice(layers: int = 2) -> PretrainedConfig:
    """Return two layers of Llama 3 8B."""
    return _cut("meta-llama/Meta-Llama-3-8B", layers)


def _cut(name: str, layers: int) -> PretrainedConfig:
    config = shape_config(name)
    config.num_hidden_layers = layers
    config.max_position_embeddings = 1 << 24
    return config


def model_of(
    config: PretrainedConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return a model with random weights and with gradients allocated."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    made: nn.Module = auto.from_config(config, dtype=dtype).to(device).train()
    for weight in made.parameters():
        weight.grad = torch.zeros_like(weight)
    return made


def backward(model: nn.Module, tokens: int, batch: int = 1) -> None:
    """Run a forward and a backward on random tokens."""
    config: Any = model.config
    device = next(model.parameters()).device
    ids = torch.randint(0, config.vocab_size, (batch, tokens), device=device)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def counted_peak(config: PretrainedConfig, apply: Apply, tokens: int, batch: int = 1) -> int:
    """Return the peak of a step that really runs, in bytes over what was there before."""
    model = model_of(config, torch.device("cpu"))
    with apply(model), LiveBytes() as counter:
        backward(model, tokens, batch)
    return counter.peak
