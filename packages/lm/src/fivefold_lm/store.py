"""Folders of the user cache that are made once, whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from fivefold import UserError
from fivefold.cache import cache_folder
from safetensors import SafetensorError


def made_once(name: str, make: Callable[[Path], None], entry: str = "models") -> Path:
    """Return the folder `models/NAME` of the cache, made now if it is not there.

    It is made under a temporary name and renamed when it is complete; a second process waits, and
    what an interrupted one left is removed, never used.

    Args:
        name: the folder's name.
        make: fills an empty folder.
        entry: of the cache, in place of `models`.

    Raises:
        UserError: the cache cannot be written, or the disk is full.
    """
    folder = cache_folder() / entry / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not folder.is_dir():
                _make(folder, make)
    except (OSError, SafetensorError) as error:  # the latter when the disk is full
        raise UserError(
            f"the cache folder cannot be written ({getattr(error, 'strerror', None) or error})",
            setting="FIVEFOLD_CACHE",
            value=cache_folder(),
            remedy="make room, or set FIVEFOLD_CACHE to a folder of your own",
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # we hold the lock: nobody's
        shutil.rmtree(left, ignore_errors=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    draft.mkdir()
    try:
        make(draft)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
