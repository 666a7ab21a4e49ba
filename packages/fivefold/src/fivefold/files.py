"""Files written for the user: whole or not at all, and a `UserError` when they cannot be."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import UserError


def write_atomically(path: Path, text: str, setting: str = "") -> None:
    """Write a UTF-8 file to a temporary name beside it and rename it.

    Characters that UTF-8 cannot hold (half a surrogate pair) are written as escapes.

    Raises:
        UserError: naming the setting, when it cannot be written.
    """
    with _user_errors(path, setting):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as f:
                f.write(text)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise


def open_text(path: Path, setting: str = "") -> IO[str]:
    """Open a UTF-8 file for writing, a line at a time.

    Raises:
        UserError: naming the setting, when it cannot be opened.
    """
    with _user_errors(path, setting):
        return open(
            path, "w", buffering=1, encoding="utf-8", errors="backslashreplace", newline="\n"
        )


@contextmanager
def _user_errors(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "choose a place that can be written to"
        raise UserError(
            f"cannot write {path}: {reason}", setting=setting, value=str(path), remedy=remedy
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
