"""GGUF files: converted once to safetensors and tokenizer.json, then loaded from there."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from transformers import AutoModelForCausalLM, AutoTokenizer

from .quiet import without_stderr
from .store import made_once

MAGIC = b"GGUF"
SAMPLE = 1 << 20  # bytes at both ends that, with the size, name a file


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def require_gguf(path: Path) -> None:
    """Refuse a file of another kind.

    Raises:
        UserError: it does not begin as a GGUF file does.
    """
    if not is_gguf(path):
        raise UserError(
            "this file is no GGUF file",
            setting="model.name",
            value=str(path),
            remedy="give a GGUF file, a folder with config.json, or a hub id",
        )


def unreadable(path: Path, error: Exception) -> UserError:
    """Say in one line that a reader failed."""
    return UserError(
        f"this GGUF file cannot be read ({type(error).__name__}: {error})",
        setting="model.name",
        value=str(path),
        remedy="fetch it again, or give the model's hub id or folder instead",
    )


def converted(path: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of a GGUF file's conversion, made on first use.

    Raises:
        UserError: the file is no GGUF file, is damaged, or of an architecture nobody knows.
    """
    require_gguf(path)
    name = f"{path.stem}-{file_key(path)}"

    def make(folder: Path) -> None:
        say(f"converting {path.name} (once)")
        convert(path, folder)

    return made_once(name, make)


def convert(path: Path, folder: Path) -> None:
    """Write a GGUF file's model in float32 and its tokenizer as transformers saves them.

    Raises:
        UserError: the file is damaged, or of an architecture transformers does not know.
    """
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with without_stderr():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            module: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # its readers raise whatever a damaged file leads them to
        raise unreadable(path, error) from error
    module.hf_quantizer = None  # else it is taken for a quantised model, which cannot be saved
    module.quantization_method = None
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    with without_stderr():
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def file_key(path: Path) -> str:
    """Name a file by its size, its first and its last bytes: metadata, and some weights."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE))
        file.seek(max(0, size - SAMPLE))
        digest.update(file.read())
    return digest.hexdigest()[:12]
