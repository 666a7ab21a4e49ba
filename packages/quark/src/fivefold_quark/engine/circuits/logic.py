"""Boolean formulas as reversible gates: compute into a target, with ancillas that return to 0."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from qiskit import QuantumCircuit

from ..models.expression import And, AtLeast, Expression, Feature, Not, Or, Weight, Xor
from .preparing import toffoli

Literal = tuple[int, bool]
"""A qubit, and the value it must have."""
_MOST_ANCILLAS = 1024
_UNFOLDED = 3
"""Terms of an OR up to which inclusion and exclusion costs less than ancillas."""


@dataclass
class Scratch:
    """Ancillas, lent in order and given back in reverse."""

    qubits: Sequence[int]
    used: int = 0
    most: int = field(default=0, init=False)

    @contextmanager
    def borrow(self, count: int) -> Iterator[list[int]]:
        """Lend ancillas that hold 0 and must hold it again at the end."""
        first, self.used = self.used, self.used + count
        self.most = max(self.most, self.used)
        yield list(self.qubits[first : self.used])
        self.used = first


@dataclass
class Logic:
    """Writes formulas into a circuit.

    Args:
        circuit: to append to.
        weights: qubits of the weights.
        features: qubits of the features.
        scratch: ancillas.
    """

    circuit: QuantumCircuit
    weights: Sequence[int]
    features: Sequence[int]
    scratch: Scratch

    def flip(self, expression: Expression, target: int) -> None:
        """Flip the target where the formula is true; ancillas are 0 before and after."""
        match expression:
            case Not():
                self.flip(expression.part, target)
                self.circuit.x(target)
            case Xor():
                for part in expression.parts:
                    self.flip(part, target)
            case Or():
                self._flip_or(expression, target)
            case AtLeast():
                self._flip_count(expression, target)
            case _:
                with self._literals(expression.parts or (expression,)) as literals:
                    toffoli(self.circuit, literals, target)

    def _flip_or(self, expression: Or, target: int) -> None:
        terms = [self._product(part) for part in expression.parts]
        if len(terms) <= _UNFOLDED and all(term is not None for term in terms):
            self._unfold([term for term in terms if term is not None], target)
            return
        with self._literals(expression.parts) as literals:
            toffoli(self.circuit, [(qubit, not value) for qubit, value in literals], target)
        self.circuit.x(target)

    def _unfold(self, terms: list[list[Literal]], target: int) -> None:
        """OR as the XOR of all products of its terms."""
        for size in range(1, len(terms) + 1):
            for chosen in itertools.combinations(terms, size):
                joined = dict(itertools.chain.from_iterable(chosen))
                together = set(itertools.chain.from_iterable(chosen))
                if len(joined) == len(together):  # else it asks a qubit to be 0 and 1
                    toffoli(self.circuit, sorted(together), target)

    def _flip_count(self, expression: AtLeast, target: int) -> None:
        """Count the true parts in a small register, compare, and count down again."""
        bits = len(expression.parts).bit_length()
        with self.scratch.borrow(bits) as counter:
            self._count(expression.parts, counter, up=True)
            for value in range(expression.least, len(expression.parts) + 1):
                pattern = [(qubit, bool(value >> i & 1)) for i, qubit in enumerate(counter)]
                toffoli(self.circuit, pattern, target)
            self._count(expression.parts, counter, up=False)

    def _count(self, parts: Sequence[Expression], counter: list[int], *, up: bool) -> None:
        for part in parts if up else reversed(parts):
            with self._literals((part,)) as literals:
                places = range(len(counter))
                for place in reversed(places) if up else places:
                    carried = [(qubit, True) for qubit in counter[:place]]
                    toffoli(self.circuit, [*literals, *carried], counter[place])

    @contextmanager
    def _literals(self, parts: Sequence[Expression]) -> Iterator[list[Literal]]:
        """Give each part a qubit: its own, or an ancilla computed before and undone after."""
        found = [self._literal(part) for part in parts]
        missing = [part for part, literal in zip(parts, found, strict=True) if literal is None]
        with self.scratch.borrow(len(missing)) as ancillas:
            computed = list(zip(missing, ancillas, strict=True))
            for part, ancilla in computed:
                self.flip(part, ancilla)
            spare = iter(ancillas)
            yield [literal or (next(spare), True) for literal in found]
            for part, ancilla in reversed(computed):
                self.flip(part, ancilla)

    def _literal(self, part: Expression) -> Literal | None:
        match part:
            case Weight():
                return self.weights[part.index], True
            case Feature():
                return self.features[part.index], True
            case Not():
                inner = self._literal(part.part)
                return None if inner is None else (inner[0], not inner[1])
        return None

    def _product(self, part: Expression) -> list[Literal] | None:
        """Return the literals of a conjunction; nothing where it is something else."""
        literals = [
            self._literal(inner) for inner in (part.parts if isinstance(part, And) else (part,))
        ]
        known = [literal for literal in literals if literal is not None]
        return known if len(known) == len(literals) else None


def ancillas_of(expression: Expression, num_weights: int, num_features: int) -> int:
    """Return how many ancillas `Logic.flip` borrows at most."""
    target = num_weights + num_features
    scratch = Scratch(range(target + 1, target + 1 + _MOST_ANCILLAS))
    circuit = QuantumCircuit(target + 1 + _MOST_ANCILLAS)
    logic = Logic(circuit, range(num_weights), range(num_weights, target), scratch)
    logic.flip(expression, target)
    return scratch.most


def monomials(truth: Bool[ndarray, " state"]) -> list[int]:
    """Return the algebraic normal form of a Boolean function: the products whose XOR it is.

    The Reed-Muller (Moebius) transform over GF(2), one butterfly a variable.

    Args:
        truth: the function's value for each state of its variables, variable 0 first.

    Returns:
        Products as bit masks of variables; 0 is the constant 1.
    """
    found = truth.copy()
    size = 1
    while size < len(found):
        pairs = found.reshape(-1, 2, size)
        pairs[:, 1] ^= pairs[:, 0]
        size *= 2
    return [int(n) for n in np.flatnonzero(found)]


def shortest_form(
    truth: Bool[ndarray, " state"],
) -> tuple[bool, list[int]]:
    """Return the shorter of two normal forms: of the variables, or of their complements.

    Returns:
        Whether variables are to be complemented, and the products.
    """
    plain, flipped = monomials(truth), monomials(truth[::-1].copy())
    return (True, flipped) if len(flipped) < len(plain) else (False, plain)
