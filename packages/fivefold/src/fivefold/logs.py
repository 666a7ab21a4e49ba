"""Where log lines go: everything to the run folder, warnings to stderr, nothing to stdout."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PLAIN = {"format": "%(message)s"}
_DATED = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}

JOB_LOGGING: dict[str, Any] = {
    "version": 1,
    "formatters": {"warning": {"format": "%(levelname)s: %(message)s (%(name)s)"}, "file": _DATED},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "warning",
            "level": "WARNING",
            "stream": "ext://sys.stderr",
        },
        "file": {
            "class": "logging.FileHandler",
            "formatter": "file",
            "encoding": "utf-8",
            "filename": "${hydra.runtime.output_dir}/${hydra.job.name}.log",
        },
    },
    "root": {"level": "INFO", "handlers": ["console", "file"]},
    "disable_existing_loggers": False,
}
"""`hydra/job_logging: fivefold`."""

HYDRA_LOGGING: dict[str, Any] = {
    "version": 1,
    "formatters": {"plain": _PLAIN},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": "INFO", "handlers": ["console"]},
    "disable_existing_loggers": False,
}
"""`hydra/hydra_logging: fivefold`."""


@contextmanager
def logging_restored() -> Iterator[None]:
    """Give the root logger back as it was, the handlers that Hydra added closed."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
