"""What `fivefold graph` leaves: weights to predict with, and trainer states to resume from.

    DIR/plan.json                      model, graph, method: what the weights belong to
    DIR/best.safetensors               weights of the best validation epoch so far
    DIR/latest                         name of the newest complete state
    DIR/epoch-000050/last.safetensors  weights after 50 epochs
    DIR/epoch-000050/best.safetensors  the best ones among them
    DIR/epoch-000050/state-0.safetensors   rank 0's optimizer and history; one file a rank
    DIR/epoch-000050/progress.json     curve and best epoch so far

A state is named in `latest` after every rank has written its part, so a run that is killed at any
moment resumes from a whole one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold import UserError
from fivefold.files import write_atomically
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

SCHEMA = 1
_LATEST = "latest"
_PLAN = "plan.json"
_REMEDY = "give the folder that `fivefold graph` left"


@dataclass(frozen=True)
class Saved:
    """A trainer state, read."""

    epoch: int
    """Epochs that were trained."""
    weights: dict[str, Tensor]
    """The whole plan's, after the last of them."""
    best: dict[str, Tensor]
    """Those of the best validation epoch."""
    state: dict[str, Tensor]
    """This rank's optimizer and history."""
    progress: dict[str, Any]
    """The curve so far."""


class CheckpointFolder:
    """A folder of one run's checkpoints; rank 0 writes what all share."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self._rank = rank

    # ------------------------------------------------------------------------------------ writing

    def describe(self, description: Mapping[str, object], *, anew: bool) -> None:
        """Write `plan.json`.

        Args:
            description: what the weights belong to.
            anew: whether what an earlier run left here is forgotten: its states are not this run's.
        """
        self._make(self.folder)
        if anew:
            self._forget()
        text = json.dumps({"schema": SCHEMA, **description}, indent=1, sort_keys=True)
        write_atomically(self.folder / _PLAN, text + "\n", "checkpoint")

    def write_best(self, weights: Mapping[str, Tensor]) -> None:
        """Write the best weights."""
        self._save(weights, self.folder / "best.safetensors")

    def write_state(self, epoch: int, state: Mapping[str, Tensor]) -> None:
        """Write this rank's part of a state."""
        place = self._epoch(epoch)
        self._make(place)
        self._save(state, place / f"state-{self._rank}.safetensors")

    def write_shared(
        self,
        epoch: int,
        weights: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        progress: Mapping[str, object],
    ) -> None:
        """Write rank 0's part of a state that all share."""
        place = self._epoch(epoch)
        self._make(place)
        self._save(weights, place / "last.safetensors")
        self._save(best, place / "best.safetensors")
        write_atomically(place / "progress.json", json.dumps(progress), "checkpoint")

    def finish(self, epoch: int) -> None:
        """Name a state as the newest, once every rank has written; remove the one before."""
        before = self._latest()
        write_atomically(self.folder / _LATEST, self._epoch(epoch).name + "\n", "checkpoint")
        if before is not None and before != self._epoch(epoch):
            shutil.rmtree(before, ignore_errors=True)

    def _forget(self) -> None:
        before = self._latest()
        try:
            for name in (_LATEST, "best.safetensors"):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    def _save(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        temporary = path.with_suffix(".partial")
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(whole, temporary)
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"the checkpoint cannot be written: {error}",
            setting="checkpoint",
            value=str(self.folder),
            remedy="give a folder that can be written to",
        )

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the checkpoint's folder cannot be made: {error}",
                setting="checkpoint",
                value=str(folder),
                remedy="give a folder that can be written to",
            ) from error

    def _epoch(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}"

    # ------------------------------------------------------------------------------------ reading

    def description(self, setting: str) -> dict[str, Any]:
        """Return `plan.json`.

        Raises:
            UserError: no checkpoint, or one of another version.
        """
        try:
            found: dict[str, Any] = json.loads((self.folder / _PLAN).read_text("utf-8"))
        except (OSError, ValueError) as error:
            problem = "this folder holds no checkpoint of `fivefold graph`"
            raise self._refused(problem, setting, _REMEDY) from error
        if found.get("schema") != SCHEMA:
            problem = f"this checkpoint has version {found.get('schema')}, not {SCHEMA}"
            raise self._refused(problem, setting, "train again")
        return found

    def read_weights(self, which: str, setting: str) -> dict[str, Tensor]:
        """Return the best weights, or the last.

        Raises:
            UserError: they are not there, or damaged.
        """
        latest = self._latest()
        if which == "best":
            return self._load(self.folder / "best.safetensors", setting)
        if latest is None:
            raise self._refused("no state was finished there", setting, "use weights=best")
        return self._load(latest / "last.safetensors", setting)

    def read_state(self, setting: str) -> Saved:
        """Return the newest whole state, this rank's part of it.

        Raises:
            UserError: none was finished, or a part is damaged or missing.
        """
        place = self._latest()
        if place is None:
            raise self._refused("no state was finished there", setting, "train from the start")
        try:
            progress = json.loads((place / "progress.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            problem = f"{place.name}/progress.json cannot be read"
            raise self._refused(problem, setting, "train from the start") from error
        return Saved(
            epoch=int(place.name.partition("-")[2]),
            weights=self._load(place / "last.safetensors", setting),
            best=self._load(place / "best.safetensors", setting),
            state=self._load(place / f"state-{self._rank}.safetensors", setting),
            progress=progress,
        )

    def _latest(self) -> Path | None:
        try:
            name = (self.folder / _LATEST).read_text("utf-8").strip()
        except OSError:
            return None
        is_state = name.startswith("epoch-") and name[6:].isdigit()
        return self.folder / name if is_state else None

    def _load(self, path: Path, setting: str) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            problem = f"{path.name} cannot be read: {error}"
            raise self._refused(problem, setting, "it is damaged or of another run") from error

    def _refused(self, problem: str, setting: str, remedy: str) -> UserError:
        return UserError(problem, setting=setting, value=str(self.folder), remedy=remedy)


def check_same(
    description: Mapping[str, Any],
    wanted: Mapping[str, object],
    setting: str,
    remedy: str = "give the settings that it was made with, or train from the start",
) -> None:
    """Refuse to resume from, or predict with, a checkpoint that belongs to something else.

    Args:
        description: what `plan.json` says.
        wanted: what this run is, by the same keys.
        setting: what names the checkpoint.
        remedy: what to do about it.

    Raises:
        UserError: another graph, model, method, number of parts or cut.
    """
    for name, value in _flat(wanted).items():
        held = _flat(description).get(name)
        if held != json.loads(json.dumps(value)):
            problem = f"the checkpoint has {name}={held}, and this run {name}={value}"
            raise UserError(problem, setting=setting, remedy=remedy)


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings with dotted keys: `model.layers`."""
    found: dict[str, Any] = {}
    for name, value in description.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            found[name] = value
    return found
