"""Models in training: loaded, made trainable, given adapters, written as transformers does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from fivefold_lm import LanguageModel, load_model
from fivefold_lm.quiet import without_bars
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .config import LoraConfig, TrainModelConfig
from .ranks import Ranks

ADAPTER = "adapter"
"""Folder of the adapters in a checkpoint; the model beside it has them merged into its weights."""
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass
class TrainedModel:
    """A model in training."""

    module: PreTrainedModel
    """The causal language model, adapters inside if there are any."""
    tokenizer: PreTrainedTokenizerBase
    context_len: int
    """Most positions it may see."""
    fingerprint: str
    """Of its weights before training."""
    adapters: Any = None
    """The `PeftModel` around `module`; None: its own weights are trained."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.module.device

    @property
    def vocab_size(self) -> int:
        """Entries of its logits."""
        head: Any = self.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        return int(head.weight.shape[0])

    def save(self, folder: Path, ranks: Ranks | None = None) -> None:
        """Write weights, config and tokenizer; shards are gathered, the first process writes."""
        weights = {name: _whole(value) for name, value in self.module.state_dict().items()}
        if ranks is not None and not ranks.is_first:
            return
        if self.adapters is not None:
            self.adapters.save_pretrained(str(folder / ADAPTER))
            weights = _merged(self.module, weights)
        with without_bars():
            self.module.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    def adopt_adapters(self, folder: Path) -> None:
        """Take over the adapters of a checkpoint.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        path = folder / ADAPTER / _ADAPTER_WEIGHTS
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                "this checkpoint holds no adapters that can be read",
                setting="resume",
                value=folder,
                remedy="leave lora.rank out, or resume from a checkpoint made with it",
            ) from error
        import_module("peft").set_peft_model_state_dict(self.adapters, weights)


def open_model(
    config: TrainModelConfig,
    device: str,
    say: Callable[[str], None],
    folder: Path | None = None,
) -> TrainedModel:
    """Load a model to train it.

    Args:
        config: which model.
        device: of this process.
        say: told what takes time.
        folder: of a checkpoint, whose weights take the place of the model's own.

    Raises:
        UserError: it cannot be loaded.
    """
    loaded = load_model(config.for_loading(str(folder or config.name), device), say)
    return trainable(loaded)


def trainable(loaded: LanguageModel) -> TrainedModel:
    """Make every weight of a loaded model trainable, and turn its dropout on."""
    module = loaded.module.train()
    for weight in module.parameters():
        weight.requires_grad_(weight.is_floating_point())
    return TrainedModel(module, loaded.tokenizer, loaded.context_len, loaded.fingerprint)


def add_adapters(model: TrainedModel, config: LoraConfig) -> None:
    """Freeze a model's weights and put low-rank adapters beside them.

    W x becomes W x + alpha/r · B (A x), with A and B trained and B zero at first (arXiv
    2106.09685, section 4.1).

    Raises:
        UserError: no module has one of the names.
    """
    peft = import_module("peft")
    alpha = config.alpha or 2 * config.rank
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter("ignore", FutureWarning)
            model.adapters = peft.get_peft_model(model.module, settings)
    except ValueError as error:
        names = {name.rpartition(".")[2] for name, part in _linear(model.module)}
        raise UserError(
            "no module of the model has one of these names",
            setting="lora.targets",
            value=config.targets,
            remedy=f"choose among {', '.join(sorted(names))}",
        ) from error


def _linear(module: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    return [(n, part) for n, part in module.named_modules() if isinstance(part, torch.nn.Linear)]


def _merged(module: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights with its adapters added to them; the model stays as it is."""
    layers = import_module("peft.tuners.lora").LoraLayer
    deltas = {
        f"{name}.weight": part.get_delta_weight(part.active_adapters[0]).detach().cpu()
        for name, part in module.named_modules()
        if isinstance(part, layers)
    }
    found = {}
    for name, value in weights.items():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        delta = deltas.get(plain)
        found[plain] = value if delta is None else (value.float() + delta.float()).to(value.dtype)
    return found


def _whole(value: Tensor) -> Tensor:
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu()
