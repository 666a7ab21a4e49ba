"""What this package offers to the host: `attention=full`, `fivefold kernels` (light: no torch)."""

from dataclasses import dataclass

from fivefold import Method, Task, hookimpl

from .task_configs import TASKS


@dataclass
class FullAttentionConfig:
    """Every node attends to its whole prefix; nothing to set."""


@hookimpl
def fivefold_attention() -> list[Method]:
    """Describe the attention every model comes with."""
    full = Method(
        name="full",
        config=FullAttentionConfig,
        build="fivefold_lm.attention:build_full",
        summary="exact attention over the whole KV cache",
        reference="arXiv 1706.03762, section 3.2",
        provides=frozenset({"lossless"}),
    )
    return [full]


@hookimpl
def fivefold_tasks() -> list[Task]:
    """Describe kernels."""
    return TASKS
