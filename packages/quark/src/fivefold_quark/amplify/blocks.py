"""More weights than the register holds: train them block by block.

A block of parameters is put in superposition, the others stay as they are; sweeps go on until no
block improves. This is block-coordinate ascent: it ends where no block alone can be bettered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from fivefold import UserError
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .._words import Padding
from ..engine.problem import Problem
from ..engine.samples import Samples
from ..engine.weights import WeightRegister

if TYPE_CHECKING:
    from ..engine.problem import Model


@dataclass(frozen=True)
class Block:
    """A problem whose other parameters stay as they are; its register is the block's.

    Args:
        whole: the problem.
        parameters: which of its parameters can move, ascending.
        fixed: all bits of the model, those of the block of no matter.
    """

    whole: Problem
    parameters: tuple[int, ...]
    fixed: UInt8[ndarray, " bit"]

    @property
    def name(self) -> str:
        """The problem's, with the parameters."""
        return f"{self.whole.name}[{self.parameters[0]}-{self.parameters[-1]}]"

    @property
    def register(self) -> WeightRegister:
        """The block's own."""
        return self.whole.register.subset(self.parameters)

    @property
    def probabilities(self) -> Float[ndarray, " m"]:
        """As the problem's."""
        return self.whole.probabilities

    @property
    def model(self) -> Model | None:
        """The problem's, asked only whether it is Boolean."""
        return getattr(self.whole, "model", None)

    @property
    def train(self) -> Samples:
        """The problem's samples."""
        found: Samples = self.whole.train  # type: ignore[attr-defined]
        return found

    @property
    def padding(self) -> Padding:
        """As the problem's."""
        return getattr(self.whole, "padding", Padding.EXACT)

    def widen(self, bits: UInt8[ndarray, "n bit"]) -> UInt8[ndarray, "n all"]:
        """Complete settings of the block to settings of the model."""
        found = np.repeat(self.fixed[None], len(bits), axis=0)
        found[:, self.whole.register.columns(self.parameters)] = bits
        return found

    def evaluate_batch(
        self, weights: UInt8[ndarray, "n bit"], indices: Int[ndarray, " m"]
    ) -> Float[ndarray, "n m"]:
        """Return C[w, i], the other parameters as they are."""
        return self.whole.evaluate_batch(self.widen(weights), indices)


def blocks_of(
    register: WeightRegister, most_bits: int, random: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """Yield the parameters of each block of one sweep: all of them, at random, in few blocks.

    Raises:
        UserError: one parameter alone is longer than a block.
    """
    widest = max(spec.bits for spec in register.specs)
    if widest > most_bits:
        raise UserError(
            f"a parameter of {widest} weight bits does not fit a block",
            setting="optimization.block_bits",
            value=most_bits,
            remedy=f"give {widest} or more",
        )
    block: list[int] = []
    used = 0
    for parameter in random.permutation(len(register.specs)):
        bits = register.specs[parameter].bits
        if used + bits > most_bits:
            yield tuple(sorted(block))
            block, used = [], 0
        block.append(int(parameter))
        used += bits
    yield tuple(sorted(block))


def random_weights(problem: Problem, random: np.random.Generator) -> UInt8[ndarray, " bit"]:
    """Return one setting in use, drawn parameter by parameter."""
    drawn: list[int] = []
    for spec in problem.register.specs:
        code = int(random.choice(spec.codes))
        drawn += [code >> place & 1 for place in range(spec.bits)]
    return np.array(drawn, dtype=np.uint8)
