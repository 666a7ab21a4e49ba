"""The two warm-ups: which inputs of a two-bit formula count."""

from __future__ import annotations

from ..._words import Padding
from ..models.boolean import BooleanModel, parity
from ..models.expression import And, Feature, Not, Or, Weight
from ..problem import Training
from ..samples import Samples
from ..weights import WeightRegister
from .edge import every_pattern


def xor(padding: Padding = Padding.EXACT) -> Training:
    """Return two-bit XOR: the parity of the chosen inputs; weights 11 are the optimum."""
    inputs = every_pattern(2)
    return Training("xor", parity(2), Samples.of(inputs, inputs.sum(1) % 2), padding=padding)


def not_and(padding: Padding = Padding.EXACT) -> Training:
    """Return NOT-AND: NOT of the AND of the chosen inputs; weights 11 are the optimum.

    Written as the OR of the chosen inputs' complements, which needs no ancilla.
    """
    inputs = every_pattern(2)
    missing = Or(tuple(And((Weight(i), Not(Feature(i)))) for i in range(2)))
    model = BooleanModel(WeightRegister.of_bits(2), 2, missing)
    return Training("not_and", model, Samples.of(inputs, 1 - inputs.prod(1)), padding=padding)
