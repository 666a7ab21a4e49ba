"""Apply the `runtime` node to this process."""

import torch

from .config import RuntimeConfig


def apply_runtime(config: RuntimeConfig) -> None:
    """Set the number of CPU threads for the whole process; 0 leaves torch's own choice."""
    if config.threads:
        torch.set_num_threads(config.threads)
