"""Hugging Face models for Fivefold: loading, KV cache, tree attention, sampling.

Names are imported when they are first used, so that `import fivefold_lm` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._words import Capability
    from .attention import AttentionMethod, FullAttention
    from .cache import KVCache
    from .check import SelfTest, self_test
    from .config import CacheConfig, ModelConfig, RuntimeConfig, SamplingConfig
    from .forward import Rows, TreeForward
    from .groups import CACHE, MODEL, RUNTIME, SAMPLING
    from .history import History
    from .models import LanguageModel, load_model
    from .noise import Purpose, RandomStream
    from .offload.budget import free_bytes
    from .offload.streamed import Offload, offload_of
    from .runtime import apply_runtime
    from .sampling import Sampler
    from .text import TextStream

_HOMES = {
    "_words": ("Capability",),
    "attention": ("AttentionMethod", "FullAttention"),
    "cache": ("KVCache",),
    "check": ("SelfTest", "self_test"),
    "config": ("CacheConfig", "ModelConfig", "RuntimeConfig", "SamplingConfig"),
    "forward": ("Rows", "TreeForward"),
    "groups": ("CACHE", "MODEL", "RUNTIME", "SAMPLING"),
    "history": ("History",),
    "models": ("LanguageModel", "load_model"),
    "noise": ("Purpose", "RandomStream"),
    "offload.budget": ("free_bytes",),
    "offload.streamed": ("Offload", "offload_of"),
    "runtime": ("apply_runtime",),
    "sampling": ("Sampler",),
    "text": ("TextStream",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CACHE",
    "MODEL",
    "RUNTIME",
    "SAMPLING",
    "AttentionMethod",
    "CacheConfig",
    "Capability",
    "FullAttention",
    "History",
    "KVCache",
    "LanguageModel",
    "ModelConfig",
    "Offload",
    "Purpose",
    "RandomStream",
    "Rows",
    "RuntimeConfig",
    "Sampler",
    "SamplingConfig",
    "SelfTest",
    "TextStream",
    "TreeForward",
    "apply_runtime",
    "free_bytes",
    "load_model",
    "offload_of",
    "self_test",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
