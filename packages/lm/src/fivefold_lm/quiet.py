"""Keep transformers' progress bars off the terminal."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from transformers.utils import logging


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the bars of loading and saving weights; downloads keep theirs."""
    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def without_stderr() -> Iterator[None]:
    """Hide the bars that listen to no setting, with all else on stderr; logging is not touched."""
    with without_bars(), redirect_stderr(io.StringIO()):
        yield
