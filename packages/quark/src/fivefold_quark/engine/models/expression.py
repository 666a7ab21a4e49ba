"""Boolean formulas of weight bits and features: the same tree is evaluated and built as gates.

Evaluation is bit-packed: a feature is a row of bytes that hold eight samples each, a weight bit is
a byte of zeros or of ones, and every operator works on all settings and samples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

Packed = UInt8[ndarray, "n byte"]


@dataclass(frozen=True)
class Inputs:
    """What a formula reads, bit-packed along the samples."""

    weights: Sequence[UInt8[ndarray, "n 1"]]
    """0 or 255 for each setting, one array a weight bit."""
    features: Sequence[UInt8[ndarray, "1 byte"]]
    """Eight samples a byte, one array a feature."""


class Expression:
    """A Boolean formula; `&`, `|`, `^` and `~` make larger ones."""

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The formulas it is made of."""
        return ()

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return its value for every setting and sample, packed; bits past the end mean nothing."""
        raise NotImplementedError

    def __and__(self, other: Expression) -> Expression:
        return And((self, other))

    def __or__(self, other: Expression) -> Expression:
        return Or((self, other))

    def __xor__(self, other: Expression) -> Expression:
        return Xor((self, other))

    def __invert__(self) -> Expression:
        return Not(self)


@dataclass(frozen=True)
class Weight(Expression):
    """A bit of the weight register."""

    index: int

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the bit, the same for every sample."""
        return inputs.weights[self.index]


@dataclass(frozen=True)
class Feature(Expression):
    """A binary input."""

    index: int

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the input, the same for every setting."""
        return inputs.features[self.index]


@dataclass(frozen=True)
class Not(Expression):
    """True where its part is not."""

    part: Expression

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The part."""
        return (self.part,)

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the complement."""
        return ~self.part.evaluate(inputs)


@dataclass(frozen=True)
class Gate(Expression):
    """An operator of several parts."""

    inputs: tuple[Expression, ...]

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The operands."""
        return self.inputs


class And(Gate):
    """True where all parts are."""

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the conjunction."""
        found = self.inputs[0].evaluate(inputs)
        for part in self.inputs[1:]:
            found = found & part.evaluate(inputs)
        return found


class Or(Gate):
    """True where some part is."""

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the disjunction."""
        found = self.inputs[0].evaluate(inputs)
        for part in self.inputs[1:]:
            found = found | part.evaluate(inputs)
        return found


class Xor(Gate):
    """True where an odd number of parts is."""

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return the parity."""
        found = self.inputs[0].evaluate(inputs)
        for part in self.inputs[1:]:
            found = found ^ part.evaluate(inputs)
        return found


@dataclass(frozen=True)
class AtLeast(Expression):
    """A threshold on the popcount: true where at least `least` parts are."""

    least: int
    inputs: tuple[Expression, ...]

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The parts that are counted."""
        return self.inputs

    def evaluate(self, inputs: Inputs) -> Packed:
        """Return where the count reaches the threshold; `reached[c]`: at least c parts so far."""
        reached: list[Packed] = [np.full((1, 1), 255, dtype=np.uint8)]
        reached += [np.zeros((1, 1), dtype=np.uint8)] * self.least
        for part in self.inputs:
            value = part.evaluate(inputs)
            for count in range(self.least, 0, -1):
                reached[count] = reached[count] | reached[count - 1] & value
        return reached[self.least]
