"""Checkpoints: a folder that `from_pretrained` loads, with what the loop needs to go on.

FOLDER/step-00000040/
    config.json, model.safetensors, tokenizer files    the model, as transformers writes it
    trainer.safetensors                                the optimizers' states
    trainer.json                                       progress, settings, hashes of the files

A folder is written under a temporary name and renamed when it is whole: one that is there is whole.
Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fivefold import UserError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .loop import Progress
from .ranks import Ranks

SCHEMA = 1
KIND = "fivefold-train"
_NAMES = {
    "global_batch": "batch_size * accumulate * processes",
    "held_out": "blocks for evaluation (data.eval_share, data.eval_name)",
}
"""What settings are called that a user does not give by the name they have in a record."""
_HASHED = {"data": "data or packing (data.*)", "model": "model, teacher or student"}
"""What is compared by its hash."""
STATE, RECORD = "trainer.safetensors", "trainer.json"
FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: where it lies, and what its record says."""

    folder: Path
    progress: Progress
    settings: dict[str, Any]

    def states(self) -> dict[str, Tensor]:
        """Read the optimizers' states.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return load_file(self.folder / STATE)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder, f"{STATE} cannot be read") from error

    def require(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with settings under which the next batch or step would be another.

        Raises:
            UserError: naming the first setting that differs.
        """
        for key, value in settings.items():
            before = self.settings.get(key)
            if key in self.settings and before != value:
                name = _HASHED.get(key) or _NAMES.get(key, key)
                raise UserError(
                    f"the checkpoint was made with other {name}"
                    if key in _HASHED
                    else f"the checkpoint was made with {name}={before}, and this run has {value}",
                    setting="resume",
                    value=self.folder,
                    remedy=f"give {name} as before, or start anew from its weights: "
                    f"model={self.folder} without resume",
                )


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they lie.
        keep: how many to keep, the newest; 0: all.
        ranks: the processes; the first one writes.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self.folder, self.keep, self.ranks = folder, keep, ranks

    def save(
        self,
        progress: Progress,
        settings: Mapping[str, Any],
        states: Mapping[str, Tensor],
        save_model: Callable[[Path], None],
    ) -> Path:
        """Write a checkpoint; called by every process, for weights may have to be gathered.

        Args:
            progress: of the loop.
            settings: what `Checkpoint.require` compares later.
            states: of the optimizers, whole.
            save_model: writes the model into a folder; every process calls it.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        name = f"step-{progress.step:08d}"
        draft, final = self.folder / f".{name}.tmp", self.folder / name
        with self.ranks.together(), self._explained(draft):
            if self.ranks.is_first:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
        with self.ranks.together(), self._explained(draft):
            save_model(draft)
            if self.ranks.is_first:
                save_file(_apart(states), draft / STATE)
                _write_record(draft, progress, settings)
                shutil.rmtree(final, ignore_errors=True)
                os.replace(draft, final)
                self._drop_old()
        return final

    @contextmanager
    def _explained(self, draft: Path) -> Iterator[None]:
        """Make one line of what a disk says, and leave nothing half-written."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise UserError(
                f"the checkpoint cannot be written ({getattr(error, 'strerror', None) or error})",
                setting="output",
                value=self.folder,
                remedy="make room, or give output= a folder on another disk, and resume",
            ) from error

    def _drop_old(self) -> None:
        """Remove all but the newest, and what an interrupted run left."""
        for left in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        if self.keep:
            for old in _found(self.folder)[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint, or the newest of a folder of them.

    Raises:
        UserError: there is none, it is not ours, or it is damaged.
    """
    folder = Path(path).expanduser()
    if not (folder / RECORD).is_file():
        found = _found(folder) or _found(folder / "checkpoints")
        if not found:
            raise _foreign(folder, path)
        folder = found[-1]
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if record["kind"] != KIND or record["schema"] != SCHEMA:
            raise UserError(
                f"its {RECORD} is of another program or version",
                setting="resume",
                value=folder,
                remedy=f"start anew from its weights: model={folder}",
            )
        progress, settings = Progress(**record["progress"]), dict(record["settings"])
        hashes = dict(record["files"])
        if min(asdict(progress).values()) < 0:
            raise ValueError("a step before the first")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{RECORD} cannot be read") from error
    for name, wanted in hashes.items():
        file = folder / name
        if not file.is_file():
            raise _damaged(folder, f"{name} is missing")
        if _hash(file) != wanted:
            raise _damaged(folder, f"{name} is not what was written")
    return Checkpoint(folder, progress, settings)


def _found(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    named = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := FOLDER.fullmatch(path.name)) and (path / RECORD).is_file()
    ]
    return [path for _, path in sorted(named)]


def _write_record(draft: Path, progress: Progress, settings: Mapping[str, Any]) -> None:
    """Write what the checkpoint is, last of all, and see everything onto the disk."""
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    record = {
        "kind": KIND,
        "schema": SCHEMA,
        "progress": asdict(progress),
        "settings": dict(settings),
        "files": {str(path.relative_to(draft)): _hash(path) for path in files},
    }
    (draft / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for path in (*files, draft / RECORD, draft):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _apart(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors wants them."""
    return {name: value.contiguous() for name, value in states.items()}


def _foreign(folder: Path, path: str) -> UserError:
    if (folder / "config.json").is_file():
        problem = "this folder holds a model and no state of a trainer"
        remedy = f"train on from its weights: model={path} without resume"
    else:
        problem = "there is no checkpoint in this folder"
        remedy = "give the folder of a step, or the output folder of a run"
    return UserError(problem, setting="resume", value=path, remedy=remedy)


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"the checkpoint is damaged: {reason}",
        setting="resume",
        value=folder,
        remedy="resume from the one before it, or start anew",
    )
