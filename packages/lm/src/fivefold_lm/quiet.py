"""Keep what other libraries tell of their own accord off the terminal."""

import io
import logging as std_logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from huggingface_hub.utils import logging as hub_logging
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
def without_hub_warnings() -> Iterator[None]:
    """Hide what the hub's client says of each request that failed; the error says it once."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(max(before, std_logging.ERROR))
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@contextmanager
def without_stderr() -> Iterator[None]:
    """Hide the bars that listen to no setting, with all else on stderr; logging is not touched."""
    with without_bars(), redirect_stderr(io.StringIO()):
        yield
