"""Quark: discretised classifiers trained by amplitude amplification, beside classical search.

Names are imported when they are first used, so that `import fivefold_quark` needs no NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._words import Alphabet, EngineName, Padding, TestKind, Weighting
    from .amplify.optimizer import QuarkOptimizer
    from .classifier import QuarkClassifier
    from .config import QuarkConfig
    from .engine.coherent import AmplitudeEstimate, Chebyshev, CoherentTest, Replicas, Single
    from .engine.ledger import Ledger
    from .engine.optimizer import Incumbent, OptimizationResult, Optimizer, Progress
    from .engine.oracle import Oracle
    from .engine.problem import Model, Problem, Training
    from .engine.samples import Samples
    from .engine.weights import WeightRegister, WeightSpec

_HOMES = {
    "_words": ("Alphabet", "EngineName", "Padding", "TestKind", "Weighting"),
    "amplify.optimizer": ("QuarkOptimizer",),
    "classifier": ("QuarkClassifier",),
    "config": ("QuarkConfig",),
    "engine.coherent": ("AmplitudeEstimate", "Chebyshev", "CoherentTest", "Replicas", "Single"),
    "engine.ledger": ("Ledger",),
    "engine.optimizer": ("Incumbent", "OptimizationResult", "Optimizer", "Progress"),
    "engine.oracle": ("Oracle",),
    "engine.problem": ("Model", "Problem", "Training"),
    "engine.samples": ("Samples",),
    "engine.weights": ("WeightRegister", "WeightSpec"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Alphabet",
    "AmplitudeEstimate",
    "Chebyshev",
    "CoherentTest",
    "EngineName",
    "Incumbent",
    "Ledger",
    "Model",
    "OptimizationResult",
    "Optimizer",
    "Oracle",
    "Padding",
    "Problem",
    "Progress",
    "QuarkClassifier",
    "QuarkConfig",
    "QuarkOptimizer",
    "Replicas",
    "Samples",
    "Single",
    "TestKind",
    "Training",
    "WeightRegister",
    "WeightSpec",
    "Weighting",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
