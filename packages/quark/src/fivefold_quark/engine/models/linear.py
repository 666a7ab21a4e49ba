"""A linear threshold model over ternary or fixed-point weights: only simulated, never as gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..weights import TERNARY, WeightRegister, WeightSpec


@dataclass(frozen=True)
class LinearModel:
    """Output 1 where bias + sum_i w_i x_i > 0.

    Args:
        num_features: binary inputs.
        spec: alphabet of every weight and of the bias.
    """

    num_features: int
    spec: WeightSpec = TERNARY
    is_boolean = True

    @property
    def register(self) -> WeightRegister:
        """One weight a feature, then the bias."""
        names = [*(f"w{i}" for i in range(self.num_features)), "bias"]
        return WeightRegister((self.spec,) * (self.num_features + 1), tuple(names))

    def predict(
        self, weights: UInt8[ndarray, "n bit"], features: UInt8[ndarray, "m feature"]
    ) -> Float[ndarray, "n m"]:
        """Return the output, 0 or 1."""
        values = self.register.decode(weights)
        summed = values[:, :-1] @ features.T.astype(np.float64) + values[:, -1:]
        found: Float[ndarray, "n m"] = (summed > 0).astype(np.float64)
        return found
