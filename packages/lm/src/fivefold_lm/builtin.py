"""What this package offers to the host: `attention=full` (imports nothing heavy)."""

from dataclasses import dataclass

from fivefold import Method, hookimpl


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
