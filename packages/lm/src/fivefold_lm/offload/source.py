"""The weights of a model as they lie in its folder, read one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from fivefold import UserError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..gguf_file import file_key

_INDEX = "model.safetensors.index.json"


class Checkpoint:
    """Tensors in safetensors files, found by name.

    Args:
        folder: that holds them.
        name: of the model, for errors.

    Raises:
        UserError: there are none, or they are damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._name = folder, name
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise UserError(
                "only weights in safetensors files can be streamed, and this model has none",
                setting="model.name",
                value=name,
                remedy="save it as safetensors, or leave out model.offload",
            )
        self._file_of: dict[str, Path] = {}
        self.kinds: dict[str, str] = {}
        for file in self._listed():
            with self._open(file) as opened:
                self.kinds |= opened.metadata() or {}
                self._file_of |= dict.fromkeys(opened.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own.

        Raises:
            UserError: its file is damaged.
        """
        try:
            with self._open(self._file_of[name]) as file:
                found: Tensor = file.get_tensor(name).clone()  # not a view of the mapped file
                return found
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def key(self) -> str:
        """Name what the files hold: by their sizes, dates, first and last bytes."""
        digest = hashlib.sha256()
        for file in self.files:
            found = file.stat()
            digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}".encode())
            digest.update(file_key(file).encode())
        return digest.hexdigest()[:12]

    def _listed(self) -> list[Path]:
        """Return the files that belong to the model: those of the index, where there is one."""
        index = self.folder / _INDEX
        if not index.is_file():
            return self.files
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        missing = named - {file.name for file in self.files}
        if missing:
            raise self._damaged(FileNotFoundError(f"{min(missing)} is missing"))
        self.files = [file for file in self.files if file.name in named]
        return self.files

    def _open(self, file: Path) -> safe_open:
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"its weights are damaged ({error})",
            setting="model.name",
            value=self._name,
            remedy="fetch the model again",
        )


def as_dtype(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in the model's number format, as transformers loads it."""
    return weight.to(dtype) if weight.is_floating_point() else weight
