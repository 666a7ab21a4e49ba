"""Shapes of models, so that they can be planned for without a download: configs, no weights."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from fivefold import UserError, nearest
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

NAMES = {
    "smollm2": "smollm2",
    "HuggingFaceTB/SmolLM2-135M": "smollm2",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2",
    "meta-llama/Llama-2-7b-hf": "llama_2_7b",
    "meta-llama/Meta-Llama-3-8B": "llama_3_8b",
    "meta-llama/Llama-3.1-8B": "llama_3_1_8b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama_3_1_8b",
    "mistralai/Mistral-7B-v0.3": "mistral_7b",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral_7b",
    "Qwen/Qwen2-7B": "qwen2_7b",
    "Qwen/Qwen2-7B-Instruct": "qwen2_7b",
    "google/gemma-2-9b": "gemma_2_9b",
    "google/gemma-2-9b-it": "gemma_2_9b",
}
"""Hub ids whose shapes come with this package."""
PUBLISHED = (
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-2-7b-hf",
    "mistralai/Mistral-7B-v0.3",
    "Qwen/Qwen2-7B",
    "google/gemma-2-9b",
)
"""The five models of the source's table."""


def shape_config(name: str) -> PretrainedConfig:
    """Return the config of a model by name, folder or `config.json`; nothing is fetched.

    Raises:
        UserError: the name is none of those that are known, and no local file.
    """
    if name in NAMES:
        text = (files(__package__) / f"{NAMES[name]}.json").read_text("utf-8")
        fields: dict[str, Any] = json.loads(text)
        made: PretrainedConfig = CONFIG_MAPPING[fields.pop("model_type")](**fields)
        return made
    path = Path(name).expanduser()
    folder = path.parent if path.name == "config.json" else path
    if (folder / "config.json").is_file():
        try:
            found: PretrainedConfig = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"this config cannot be read: {str(error).splitlines()[0]}",
                setting="model.name",
                value=name,
                remedy="give a folder with a config.json of a causal model of transformers",
            ) from error
        return found
    raise UserError(
        "no such shape here, and nothing is fetched to plan",
        setting="model.name",
        value=name,
        remedy=f"give a folder with a config.json; {nearest(name, NAMES)}",
    )
