"""The JSONL file of answers: a finished answer is on the disk before the next one begins."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from fivefold import UserError


class AnswerFile:
    """One record a line, each written whole; an earlier file lives until the first record."""

    def __init__(self, path: Path) -> None:
        """Open the file for writing without touching what it holds.

        Args:
            path: JSONL file; its folder must exist.

        Raises:
            UserError: the file cannot be written.
        """
        self.path = path
        self.num_written = 0
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise _unwritable(path, error) from None

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record and wait until the disk has it.

        Raises:
            UserError: the disk refused it.
        """
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        try:
            is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            if self.num_written == 0 and is_regular:
                os.ftruncate(self._file, 0)
            while line:
                line = line[os.write(self._file, line) :]
            if is_regular:
                os.fsync(self._file)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self.num_written += 1

    def close(self) -> None:
        """Close the file; an empty file that this object made itself stays."""
        os.close(self._file)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the file: {error.strerror}",
        setting="output",
        value=str(path),
        remedy="choose a file in a folder you may write to",
    )
