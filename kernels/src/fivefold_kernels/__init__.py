"""Fast kernels, each with a plain torch twin: packed products, tree attention, a decoder pass."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoder.cpu import DecoderPass
    from .decoder.weights import DecoderWeights, FloatMatrix, LayerWeights
    from .errors import UnsupportedError
    from .linear.packed import PackedMatrix
    from .linear.reference import Format
    from .native.library import cpu_library
    from .native.machine import runs_here

__all__ = [
    "DecoderPass",
    "DecoderWeights",
    "FloatMatrix",
    "Format",
    "LayerWeights",
    "PackedMatrix",
    "UnsupportedError",
    "cpu_library",
    "runs_here",
]

_HOMES = {
    "DecoderPass": ".decoder.cpu",
    "DecoderWeights": ".decoder.weights",
    "FloatMatrix": ".decoder.weights",
    "Format": ".linear.reference",
    "LayerWeights": ".decoder.weights",
    "PackedMatrix": ".linear.packed",
    "UnsupportedError": ".errors",
    "cpu_library": ".native.library",
    "runs_here": ".native.machine",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
