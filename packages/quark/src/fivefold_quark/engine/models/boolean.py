"""Boolean models: one-bit weights that switch the gates of a formula on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fivefold import UserError
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..weights import WeightRegister
from .expression import And, AtLeast, Expression, Feature, Inputs, Or, Weight, Xor


@dataclass(frozen=True)
class BooleanModel:
    """A formula of weight bits and binary features.

    Args:
        register: the weights.
        num_features: inputs that the formula reads.
        expression: the output.
    """

    register: WeightRegister
    num_features: int
    expression: Expression
    is_boolean = True

    def predict(
        self, weights: UInt8[ndarray, "n bit"], features: UInt8[ndarray, "m feature"]
    ) -> Float[ndarray, "n m"]:
        """Return the output, 0 or 1, for each setting and sample.

        Raises:
            UserError: samples with another number of features.
        """
        if features.shape[1] != self.num_features:
            problem = (
                f"samples of {features.shape[1]} features, the model reads {self.num_features}"
            )
            raise UserError(problem, setting="model", remedy="give a model of the samples' size")
        packed = np.packbits(features, axis=0)  # [byte, feature]
        inputs = Inputs(
            [(255 * weights[:, j, None]).astype(np.uint8) for j in range(weights.shape[1])],
            [np.ascontiguousarray(packed[None, :, i]) for i in range(self.num_features)],
        )
        found = self.expression.evaluate(inputs)
        wide = np.broadcast_to(found, (len(weights), len(packed)))
        return np.unpackbits(wide, axis=1, count=len(features)).astype(np.float64)


Line = tuple[int, ...]
"""Pixels that a detector looks at."""
ROWS: tuple[Line, ...] = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
COLUMNS: tuple[Line, ...] = ((0, 3, 6), (1, 4, 7), (2, 5, 8))
DIAGONALS: tuple[Line, ...] = ((0, 4, 8), (2, 4, 6))


def line_detectors(lines: Sequence[Sequence[Line]], num_pixels: int = 9) -> BooleanModel:
    """Return a model that says 1 where a detector that is switched on sees its whole line.

    Args:
        lines: for each weight bit, the lines it switches on.
        num_pixels: of an image.
    """
    seen = [
        And((Weight(bit), *(Feature(pixel) for pixel in line)))
        for bit, group in enumerate(lines)
        for line in group
    ]
    names = ["+".join("".join(map(str, line)) for line in group) for group in lines]
    register = WeightRegister.of_bits(len(lines), names)
    return BooleanModel(register, num_pixels, Or(tuple(seen)))


def masked_or(num_features: int) -> BooleanModel:
    """Return OR over i of (w_i AND x_i), XOR the last weight: the model of Tiny-MNIST."""
    hidden = Or(tuple(And((Weight(i), Feature(i))) for i in range(num_features)))
    names = [*(f"pixel{i}" for i in range(num_features)), "flip"]
    register = WeightRegister.of_bits(num_features + 1, names)
    return BooleanModel(register, num_features, Xor((hidden, Weight(num_features))))


def binary_perceptron(num_features: int, least: int | None = None) -> BooleanModel:
    """Return a neuron of signs: 1 where at least `least` inputs equal their weights.

    Args:
        num_features: inputs.
        least: equal inputs that make it fire; the majority when not given.
    """
    equal = tuple(~(Weight(i) ^ Feature(i)) for i in range(num_features))
    threshold = num_features // 2 + 1 if least is None else least
    register = WeightRegister.of_bits(num_features)
    return BooleanModel(register, num_features, AtLeast(threshold, equal))


def parity(num_features: int = 2) -> BooleanModel:
    """Return XOR of the inputs whose weights are 1: the first warm-up."""
    chosen = tuple(And((Weight(i), Feature(i))) for i in range(num_features))
    return BooleanModel(WeightRegister.of_bits(num_features), num_features, Xor(chosen))
