"""The weight register: how a model's parameters sit in qubits.

Weight bit j is qubit j. Codes are little-endian (bit 0 counts 1); printed strings are
most-significant-first, as Qiskit prints them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from fivefold import UserError
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .._words import Alphabet

MOST_BITS = 62
"""Bits that a code holds; longer registers exist only as bits, and train in blocks."""


@dataclass(frozen=True)
class WeightSpec:
    """One parameter: its alphabet and its qubits."""

    alphabet: Alphabet = Alphabet.BIT
    bits: int = 1
    """Qubits: 1 for a bit, 2 for a ternary parameter."""
    fraction: int = 0
    """Bits after the point, of fixed point."""

    def __post_init__(self) -> None:
        fixed_size = {Alphabet.BIT: 1, Alphabet.TERNARY: 2}.get(self.alphabet)
        if fixed_size is not None and self.bits != fixed_size:
            problem = f"a {self.alphabet} parameter has {fixed_size} qubit(s), not {self.bits}"
            raise UserError(problem, setting="bits", remedy=f"give {fixed_size}")
        if not 1 <= self.bits <= 16:
            raise UserError(
                f"a parameter of {self.bits} qubits", setting="bits", remedy="give 1 to 16"
            )

    @cached_property
    def values(self) -> Float[ndarray, " code"]:
        """The parameter's value for each of its 2^bits codes; NaN where a code is never used."""
        codes = np.arange(2**self.bits)
        if self.alphabet is Alphabet.BIT:
            return codes.astype(np.float64)
        if self.alphabet is Alphabet.ANGLE:
            angles: Float[ndarray, " code"] = 2 * math.pi * codes / 2**self.bits
            return angles
        signed = np.where(codes < 2 ** (self.bits - 1), codes, codes - 2**self.bits)
        if self.alphabet is Alphabet.TERNARY:
            return np.where(signed == -2, np.nan, signed.astype(np.float64))
        return signed / 2.0**self.fraction

    @property
    def codes(self) -> Int[ndarray, " value"]:
        """The codes in use."""
        return np.flatnonzero(~np.isnan(self.values))


BIT = WeightSpec()
TERNARY = WeightSpec(Alphabet.TERNARY, 2)


@dataclass(frozen=True)
class WeightRegister:
    """All parameters of a model, one after another from qubit 0 upwards."""

    specs: tuple[WeightSpec, ...]
    names: tuple[str, ...] = field(default=(), compare=False)
    """What the parameters are called, for people; `w0`, `w1`, … when not given."""

    def __post_init__(self) -> None:
        if not self.specs:
            raise UserError("a model without weights has nothing to train", setting="model")
        if not self.names:
            object.__setattr__(self, "names", tuple(f"w{i}" for i in range(len(self.specs))))

    @classmethod
    def of_bits(cls, count: int, names: Sequence[str] = ()) -> WeightRegister:
        """Return a register of one-bit parameters."""
        return cls((BIT,) * count, tuple(names))

    @property
    def num_bits(self) -> int:
        """Qubits of the register, n_w."""
        return sum(spec.bits for spec in self.specs)

    @property
    def size(self) -> int:
        """Omega: settings of the weights that are in use."""
        return math.prod(len(spec.codes) for spec in self.specs)

    @property
    def is_full(self) -> bool:
        """Whether every code of the register is in use."""
        return self.size == 1 << self.num_bits

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first qubit of each parameter."""
        return tuple(int(n) for n in np.cumsum([0, *(spec.bits for spec in self.specs)])[:-1])

    def codes(self) -> Int[ndarray, " omega"]:
        """Return every code in use, ascending.

        Raises:
            UserError: when the register is too long to be listed.
        """
        self._must_hold(30)
        found = np.zeros(1, dtype=np.int64)
        for spec, offset in zip(self.specs, self.offsets, strict=True):
            found = (spec.codes[:, None] << offset | found[None, :]).ravel()
        return np.sort(found)

    def bits(self, codes: Int[ndarray, " n"]) -> UInt8[ndarray, "n bit"]:
        """Return codes as bits, bit j in column j."""
        self._must_hold(MOST_BITS)
        places = np.arange(self.num_bits, dtype=np.int64)
        return (codes[:, None] >> places & 1).astype(np.uint8)

    def code(self, bits: UInt8[ndarray, "n bit"]) -> Int[ndarray, " n"]:
        """Return bits as codes: the inverse of `bits`."""
        self._must_hold(MOST_BITS)
        return bits.astype(np.int64) @ (1 << np.arange(self.num_bits, dtype=np.int64))

    def text(self, bits: Sequence[int] | UInt8[ndarray, " bit"]) -> str:
        """Return one setting's bits as text, the most significant first."""
        return "".join(str(int(bit)) for bit in reversed(list(bits)))

    def parse(self, text: str) -> UInt8[ndarray, " bit"]:
        """Return the bits that `text` printed.

        Raises:
            UserError: for text that is no setting of this register.
        """
        if len(text) != self.num_bits or set(text) - {"0", "1"}:
            problem = f"{text!r} is no setting of {self.num_bits} weight bits"
            raise UserError(problem, setting="weights", remedy="write zeros and ones")
        return np.array([int(bit) for bit in reversed(text)], dtype=np.uint8)

    def decode(self, bits: UInt8[ndarray, "n bit"]) -> Float[ndarray, "n parameter"]:
        """Return the parameters' values; NaN for a code that is not in use."""
        found = np.empty((len(bits), len(self.specs)))
        for column, (spec, offset) in enumerate(zip(self.specs, self.offsets, strict=True)):
            places = 1 << np.arange(spec.bits)
            found[:, column] = spec.values[bits[:, offset : offset + spec.bits] @ places]
        return found

    def encode(self, values: Float[ndarray, "n parameter"]) -> UInt8[ndarray, "n bit"]:
        """Return the bits whose values are nearest: the inverse of `decode`."""
        found = np.empty((len(values), self.num_bits), dtype=np.uint8)
        for column, (spec, offset) in enumerate(zip(self.specs, self.offsets, strict=True)):
            table = spec.values[spec.codes]
            near = spec.codes[np.abs(values[:, column, None] - table).argmin(1)]
            places = np.arange(spec.bits)
            found[:, offset : offset + spec.bits] = near[:, None] >> places & 1
        return found

    def subset(self, parameters: Sequence[int]) -> WeightRegister:
        """Return the register of some parameters, for training in blocks."""
        return WeightRegister(
            tuple(self.specs[i] for i in parameters), tuple(self.names[i] for i in parameters)
        )

    def columns(self, parameters: Sequence[int]) -> Int[ndarray, " bit"]:
        """Return the qubits of some parameters, in the order of `subset`'s register."""
        ranges = [np.arange(self.specs[i].bits) + self.offsets[i] for i in parameters]
        return np.concatenate(ranges)

    def _must_hold(self, most: int) -> None:
        if self.num_bits > most:
            raise UserError(
                f"{self.num_bits} weight bits are too many to list (at most {most})",
                setting="optimization.block_bits",
                remedy="train in blocks: optimization.block_bits=16",
            )
