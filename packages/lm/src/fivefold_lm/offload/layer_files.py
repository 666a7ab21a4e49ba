"""Layers on disk: a file each, written once, read whole and past the page cache.

A folder holds `000.layer`, `001.layer`, … and `manifest.json`, which says how each layer lies in
its file, how long the file is, when it was written, and the hash of its bytes. A file that is not
what the manifest says is refused when it is opened, and after each read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold import UserError
from jaxtyping import UInt8
from torch import Tensor

from ..store import made_once
from .sizes import in_units
from .storage import PAGE, LayerLayout, Weights, aligned_bytes

ENTRY = "offload"
"""The entry of the cache folder that holds such folders."""
MANIFEST = "manifest.json"
VERSION = 1  # of the manifest and the files
_MOST = 1 << 30  # bytes of one call that reads; the system's own limit is just below 2 GiB


def written_once(
    name: str,
    layers: Callable[[], Iterable[Weights]],
    need: int,
    about: Callable[[], dict[str, Any]],
) -> Path:
    """Return the folder of a model's layers, written now if it is not there.

    Args:
        name: of the folder.
        layers: makes the layers, one after the other, when they are to be written.
        need: bytes that they take, about.
        about: what else the manifest is to say, asked for after the last layer.

    Raises:
        UserError: the cache cannot be written, or the disk has no room for them.
    """

    def make(folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if free < need:
            raise UserError(
                f"the layers take {in_units(need)} on disk and {in_units(free)} are free",
                setting="FIVEFOLD_CACHE",
                value=folder.parent.parent,
                remedy="make room, or set FIVEFOLD_CACHE to a folder on another disk",
            )
        _write(folder, layers(), about)

    return made_once(name, make, entry=ENTRY)


def _write(folder: Path, layers: Iterable[Weights], about: Callable[[], dict[str, Any]]) -> None:
    layouts: list[LayerLayout] = []
    files = []
    for index, weights in enumerate(layers):
        layout = LayerLayout.of(weights)
        if layout not in layouts:
            layouts.append(layout)
        path = folder / f"{index:03}.layer"
        digest = _write_layer(path, layout, weights)
        files.append(
            {
                "file": path.name,
                "nbytes": layout.nbytes,
                "mtime_ns": path.stat().st_mtime_ns,
                "sha256": digest,
                "layout": layouts.index(layout),
            }
        )
    said = {
        "version": VERSION,
        "layouts": [layout.to_json() for layout in layouts],
        "layers": files,
        **about(),
    }
    (folder / MANIFEST).write_text(json.dumps({**said, "digest": _digest(said)}))


def _write_layer(path: Path, layout: LayerLayout, weights: Weights) -> str:
    """Write a layer and bring it to the disk; return the hash of its bytes."""
    digest, end = hashlib.sha256(), 0
    with path.open("wb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        for offset, piece in layout.pieces(weights):
            put(bytes(offset - end))
            put(piece.numpy().data)
            end = offset + piece.numel()
        put(bytes(layout.nbytes - end))
        file.flush()
        os.fsync(file.fileno())  # only then can its pages be dropped
    return digest.hexdigest()


@dataclass(frozen=True)
class _File:
    """An open layer."""

    path: Path
    fd: int
    nbytes: int
    mtime_ns: int


class LayerFiles:
    """The layers of one folder, ready to be read.

    Args:
        folder: made by `written_once`.
        rate: bytes a second that reads are held to, for experiments; 0: as fast as the disk is.

    Raises:
        UserError: the folder's files are damaged, or not those that were written.
    """

    def __init__(self, folder: Path, rate: float = 0.0) -> None:
        self.folder = folder
        self.rate = rate
        said = self._manifest()
        self.about: dict[str, Any] = said
        layouts = [LayerLayout.from_json(layout) for layout in said["layouts"]]
        self.layouts = [layouts[layer["layout"]] for layer in said["layers"]]
        self.sizes: list[int] = [layout.nbytes for layout in self.layouts]
        self._closing = threading.Event()
        self._due = 0.0  # when the reads so far would be over at the rate they are held to
        self._files: list[_File] = []
        self.close = weakref.finalize(self, _close, self._files, self._closing)
        try:
            for layer in said["layers"]:
                self._files.append(self._opened(layer))
            self.reads = self._how_to_read()
        except BaseException:
            self.close()
            raise

    def load(self, layer: int, buffer: UInt8[Tensor, " byte"]) -> None:
        """Read a layer.

        Args:
            layer: its number.
            buffer: begins at a page (`aligned_bytes`).

        Raises:
            UserError: the file is shorter than it was, or has been written to.
        """
        begin, file = time.perf_counter(), self._files[layer]
        if self.reads == "dropped":
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        done, why = _read(file, buffer)
        now = os.fstat(file.fd)
        if now.st_size != file.nbytes:
            raise self._refused(f"{file.path.name} has {now.st_size} bytes, not {file.nbytes}")
        if now.st_mtime_ns != file.mtime_ns:
            raise self._refused(f"{file.path.name} was written to while the model runs")
        if done < file.nbytes:
            raise self._refused(f"{file.path.name} cannot be read from byte {done} on ({why})")
        self._pace(begin, file.nbytes)

    def interrupt(self) -> None:
        """Let a read that waits for its turn return at once."""
        self._closing.set()

    def disk_rate(self, seconds: float = 1.0) -> float:
        """Measure how fast the layers are read one after the other, with nothing else going on.

        Args:
            seconds: how long to read; each layer at least once.

        Returns:
            Bytes a second, `rate` left aside.
        """
        buffer, total, begin = aligned_bytes(max(self.sizes)), 0, time.perf_counter()
        held, self.rate = self.rate, 0.0
        try:
            while total == 0 or time.perf_counter() - begin < seconds:
                for layer, size in enumerate(self.sizes):
                    self.load(layer, buffer)
                    total += size
        finally:
            self.rate = held
        return total / (time.perf_counter() - begin)

    def _pace(self, begin: float, nbytes: int) -> None:
        """Wait until a slower disk would have read as much."""
        if self.rate:
            self._due = max(begin, self._due) + nbytes / self.rate
            self._closing.wait(max(0.0, self._due - time.perf_counter()))

    def _manifest(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text())
            digest = said.pop("digest")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._refused(f"{MANIFEST} cannot be read ({type(error).__name__})") from error
        if digest != _digest(said) or said.get("version") != VERSION:
            raise self._refused(f"{MANIFEST} is damaged")
        return said

    def _opened(self, layer: dict[str, Any]) -> _File:
        """Open a layer that is what the manifest says."""
        path, nbytes = self.folder / layer["file"], layer["nbytes"]
        try:
            fd = _open(path)
            found = os.fstat(fd)
        except OSError as error:
            raise self._refused(f"{path.name} cannot be opened ({error.strerror})") from error
        if found.st_size != nbytes:
            os.close(fd)
            raise self._refused(f"{path.name} has {found.st_size} bytes, not {nbytes}")
        if found.st_mtime_ns != layer["mtime_ns"]:  # copied, or changed
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == layer["sha256"]
            if not same:
                os.close(fd)
                raise self._refused(f"{path.name} is not what was written")
            with contextlib.suppress(OSError):  # so that it need not be looked at again
                os.utime(path, ns=(layer["mtime_ns"], layer["mtime_ns"]))
        return _File(path, fd, nbytes, os.fstat(fd).st_mtime_ns)

    def _how_to_read(self) -> str:
        """Return `direct` (past the page cache), `dropped` (out of it each time) or `cached`."""
        direct = getattr(os, "O_DIRECT", 0)
        flags = fcntl.fcntl(self._files[0].fd, fcntl.F_GETFL)
        if flags & direct:
            try:
                os.preadv(self._files[0].fd, [aligned_bytes(PAGE).numpy().data], 0)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return "direct"
            for file in self._files:
                fcntl.fcntl(file.fd, fcntl.F_SETFL, flags & ~direct)
        return "dropped" if hasattr(os, "posix_fadvise") else "cached"

    def _refused(self, problem: str) -> UserError:
        return UserError(
            f"the streamed layers are damaged: {problem}",
            setting="model.offload",
            value="disk",
            remedy=f"run `fivefold cache clear entry={ENTRY}`, or delete {self.folder}; "
            "the layers are then written anew",
        )


def _open(path: Path) -> int:
    """Open a file past the page cache where its file system allows that."""
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDONLY)


def _read(file: _File, buffer: Tensor) -> tuple[int, str]:
    """Fill a buffer from a file; return how many bytes came, and why no more."""
    room, done = buffer.numpy().data, 0
    while done < file.nbytes:
        try:
            count = os.preadv(file.fd, [room[done : min(done + _MOST, file.nbytes)]], done)
        except OSError as error:
            return done, error.strerror or str(error)
        if count == 0:
            break
        done += count
    return done, "it ends there"


def _close(files: list[_File], closing: threading.Event) -> None:
    closing.set()
    while files:
        os.close(files.pop().fd)


def _digest(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
