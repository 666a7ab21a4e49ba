"""An angle model: a qubit that the inputs turn by trainable angles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..._words import Alphabet
from ..weights import WeightRegister, WeightSpec


@dataclass(frozen=True)
class Rotation:
    """One controlled rotation of the output qubit: by `angle` where its controls are 1."""

    angle: float
    """Of RY, in radians."""
    weight: int
    """Weight bit that controls it."""
    feature: int | None
    """Feature that controls it too; none for the bias."""


@dataclass(frozen=True)
class AngleModel:
    """f(w, x) = sin^2((theta_0 + sum_i x_i theta_i) / 2), angles of b bits each.

    A parameter of b bits is b controlled rotations, by pi, pi / 2, …: every weight setting is a
    quantum model, and the correctness of a sample is a probability.

    Args:
        num_features: binary inputs.
        bits: of each angle.
    """

    num_features: int
    bits: int = 2
    is_boolean = False

    @property
    def register(self) -> WeightRegister:
        """The bias, then one angle a feature."""
        names = ["bias", *(f"angle{i}" for i in range(self.num_features))]
        spec = WeightSpec(Alphabet.ANGLE, self.bits)
        return WeightRegister((spec,) * (self.num_features + 1), tuple(names))

    @property
    def rotations(self) -> list[Rotation]:
        """The model as gates on its output qubit."""
        return [
            Rotation(
                2 * math.pi * 2**place / 2**self.bits,
                parameter * self.bits + place,
                parameter - 1 if parameter else None,
            )
            for parameter in range(self.num_features + 1)
            for place in range(self.bits)
        ]

    def predict(
        self, weights: UInt8[ndarray, "n bit"], features: UInt8[ndarray, "m feature"]
    ) -> Float[ndarray, "n m"]:
        """Return the probability that the output qubit shows 1."""
        angles = self.register.decode(weights)  # [n, 1 + feature]
        turned = angles[:, :1] + angles[:, 1:] @ features.T.astype(np.float64)
        found: Float[ndarray, "n m"] = np.sin(turned / 2) ** 2
        return found
