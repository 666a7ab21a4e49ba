"""The standard streams when nobody reads them any more."""

import os
import sys
from contextlib import suppress


def forget_stdout() -> None:
    """Point stdout at nothing, so that neither we nor Python's exit complain of a closed pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
