"""The user's cache folder: converted models, compiled kernels, whatever can be made again."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, nearest

if TYPE_CHECKING:
    from .builtin import CacheConfig
    from .run import Run

VARIABLE = "FIVEFOLD_CACHE"
"""Names the cache folder; the platform's own place when it is not set."""

_TAG = "CACHEDIR.TAG"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is Fivefold's cache; `fivefold cache clear` empties it.
# For information about cache directory tags see https://bford.info/cachedir/
"""


def cache_folder() -> Path:
    """Return the cache folder, made if need be: `FIVEFOLD_CACHE`, else the platform's.

    A folder that was empty is tagged as a cache (CACHEDIR.TAG): backups skip it, and only a
    tagged folder is ever cleared.

    Raises:
        UserError: when it cannot be made.
    """
    folder = _place()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            (folder / _TAG).write_text(_TAG_TEXT, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the cache folder cannot be used: {error.strerror or error}",
            setting=VARIABLE,
            value=folder,
            remedy=f"set {VARIABLE} to a folder that can be written to",
        ) from error
    return folder


def entries(folder: Path) -> list[tuple[str, int]]:
    """Return the cache's entries, by name, each with its size in bytes."""
    names = sorted(path.name for path in folder.iterdir() if path.name != _TAG)
    return [(name, sum(_sizes(folder / name))) for name in names]


def clear(folder: Path, entry: str = "") -> int:
    """Remove one entry, or all, and return the bytes that were freed.

    Raises:
        UserError: for an entry that does not exist, a folder that was never made as a cache, or
            one that cannot be removed.
    """
    sizes = dict(entries(folder))
    if entry and entry not in sizes:
        remedy = nearest(entry, sizes)
        raise UserError("no such entry in the cache", setting="entry", value=entry, remedy=remedy)
    if sizes and not (folder / _TAG).is_file():
        raise UserError(
            f"{folder} holds {_TAG} no longer, or never was a cache, and is not cleared",
            setting=VARIABLE,
            value=folder,
            remedy="remove by hand what you do not want",
        )
    chosen = [entry] if entry else list(sizes)
    for name in chosen:
        _remove(folder / name)
    return sum(sizes[name] for name in chosen)


def run(config: "CacheConfig", run: "Run") -> None:
    """Run `fivefold cache`."""
    folder = cache_folder()
    if config.action == "clear":
        run.print(f"freed {in_units(clear(folder, config.entry))} in {folder}")
        return
    found = entries(folder)
    if config.action == "list":
        for name, size in found:
            run.print(f"{in_units(size):>10}  {name}")
    run.print(f"{in_units(sum(size for _, size in found)):>10}  in {folder}")


def in_units(size: int) -> str:
    """Return a number of bytes as people read it: `12.3 MB`, in powers of ten."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _place() -> Path:
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("fivefold", appauthor=False)


def _sizes(path: Path) -> Iterator[int]:
    """Yield the size of each file; links are not followed, and what vanishes counts nothing."""
    found = [path]
    while found:
        path = found.pop()
        try:
            if path.is_dir() and not path.is_symlink():
                found += path.iterdir()
            else:
                yield path.lstat().st_size
        except OSError:
            continue


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot remove {path}: {error.strerror or error}", setting="entry", value=path.name
        ) from error
