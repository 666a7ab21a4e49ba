"""Files of drafts: fp16 safetensors whose header says what they are and where they come from."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["DraftCard", "read_card", "read_draft", "write_draft"]

_VOCAB_IDS = "vocab_ids"


@dataclass
class DraftCard:
    """What the header of a draft file holds."""

    kind: str
    """`independent` or `feature_head`."""
    target: str
    """Hub id of the target it was distilled from."""
    config: dict[str, Any]
    """Fields of the draft's `LlamaConfig`."""
    vocab_size: int
    """Words the draft can propose."""
    tokens_seen: int = 0
    """Tokens of training text, repetitions counted."""
    recipe: str = ""
    """Path of the recipe in the repository."""
    data: str = ""
    """What the training text was."""
    licence: str = "Apache-2.0"
    """SPDX name of the weights' licence."""
    measured: dict[str, float] = field(default_factory=dict)
    """Figures on held-out prompts."""


def write_draft(path: Path, tensors: dict[str, Tensor], vocab_ids: Tensor, card: DraftCard) -> None:
    """Write a draft: weights in fp16, word ids in int32, the card in the header.

    Args:
        path: file to write.
        tensors: weights by name.
        vocab_ids: the target's ids of the words the draft can propose, most frequent first.
        card: what to say in the header.
    """
    stored = {name: x.detach().to("cpu", torch.float16).contiguous() for name, x in tensors.items()}
    stored[_VOCAB_IDS] = vocab_ids.detach().to("cpu", torch.int32).contiguous()
    save_file(stored, path, metadata={"draft": json.dumps(asdict(card))})


def read_card(path: Path) -> DraftCard:
    """Read a draft file's header only.

    Raises:
        ValueError: the file is damaged, or no draft.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no draft file ({error})") from error
    if "draft" not in metadata:
        raise ValueError(f"{path} is no draft file: its header has no `draft` entry")
    return DraftCard(**json.loads(metadata["draft"]))


def read_draft(path: Path, kind: str) -> tuple[dict[str, Tensor], Tensor, DraftCard]:
    """Read a draft of one kind.

    Args:
        path: file to read.
        kind: the kind expected.

    Returns:
        Weights by name (fp16), the ids of its words (int64) and the card.

    Raises:
        ValueError: the file is no draft, or one of another kind.
    """
    card = read_card(path)
    if card.kind != kind:
        raise ValueError(f"{path} holds a draft of kind {card.kind!r}; {kind!r} is needed")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, tensors.pop(_VOCAB_IDS).long(), card
