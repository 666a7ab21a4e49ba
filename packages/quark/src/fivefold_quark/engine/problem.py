"""A problem: a model with discretised weights, and samples that it should get right."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .._words import Padding
from .samples import Samples
from .weights import WeightRegister

if TYPE_CHECKING:
    from .models.expression import Expression

TABLE_BYTES = 2**24
"""Size of the slices in which a table of correctness is made."""


@runtime_checkable
class Model(Protocol):
    """A classifier whose parameters sit in a weight register."""

    @property
    def register(self) -> WeightRegister:
        """Its parameters."""

    @property
    def is_boolean(self) -> bool:
        """Whether its output is 0 or 1, and not a probability."""

    def predict(
        self, weights: UInt8[ndarray, "n bit"], features: UInt8[ndarray, "m feature"]
    ) -> Float[ndarray, "n m"]:
        """Return the probability of output 1 for each weight setting and sample."""


@runtime_checkable
class Problem(Protocol):
    """What an optimiser is given; any classifier with quantised weights can be one."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def register(self) -> WeightRegister:
        """The weights to train (`weight_spec` of each parameter)."""

    @property
    def probabilities(self) -> Float[ndarray, " m"]:
        """p_i: what each training sample counts; they sum to 1."""

    def evaluate_batch(
        self, weights: UInt8[ndarray, "n bit"], indices: Int[ndarray, " m"]
    ) -> Float[ndarray, "n m"]:
        """Return C[w, i]: the probability that weights w get training sample i right.

        Args:
            weights: settings of the register, bit j in column j.
            indices: which training samples.
        """


@dataclass(frozen=True)
class Training:
    """A model with its training and test samples: the problem that this package builds."""

    name: str
    model: Model
    train: Samples
    test: Samples | None = None
    padding: Padding = Padding.EXACT
    """How the data register is filled; pads are never right."""
    about: dict[str, object] = field(default_factory=dict)
    """What was done to make it, for the record."""

    @property
    def register(self) -> WeightRegister:
        """The model's parameters."""
        return self.model.register

    @property
    def probabilities(self) -> Float[ndarray, " m"]:
        """What each training sample counts."""
        return self.train.probabilities

    @property
    def expression(self) -> Expression | None:
        """The model as gates, where it is one."""
        return getattr(self.model, "expression", None)

    def evaluate_batch(
        self, weights: UInt8[ndarray, "n bit"], indices: Int[ndarray, " m"]
    ) -> Float[ndarray, "n m"]:
        """Return C[w, i] for settings and training samples."""
        return correctness(self.model, weights, self.train.take(indices))

    def accuracy(
        self, weights: UInt8[ndarray, "n bit"], samples: Samples | None = None
    ) -> Float[ndarray, " n"]:
        """Return sum_i p_i C[w, i] over the training samples, or over others."""
        chosen = self.train if samples is None else samples
        found: Float[ndarray, " n"] = (
            correctness(self.model, weights, chosen) @ chosen.probabilities
        )
        return found

    def test_accuracy(self, weights: UInt8[ndarray, "n bit"]) -> Float[ndarray, " n"] | None:
        """Return the accuracy on the test samples; nothing where there are none."""
        return None if self.test is None else self.accuracy(weights, self.test)


def correctness(
    model: Model, weights: UInt8[ndarray, "n bit"], samples: Samples
) -> Float[ndarray, "n m"]:
    """Return the probability that each setting gets each sample right."""
    ones = model.predict(weights, samples.features)
    return np.where(samples.labels == 1, ones, 1.0 - ones)


@dataclass(frozen=True)
class Table:
    """C as a whole: what a simulator computes and an optimiser never sees."""

    codes: Int[ndarray, " omega"]
    """The settings in use, ascending."""
    right: ndarray
    """C[w, i]: bool where the model is Boolean, else float64; a column a state of the register."""
    probabilities: Float[ndarray, " n"]
    """p_i, pads included."""

    @cached_property
    def accuracies(self) -> Float[ndarray, " omega"]:
        """acc(w) = sum_i p_i C[w, i]; a pad counts as wrong."""
        found: Float[ndarray, " omega"] = self.right @ self.probabilities
        return found

    @property
    def is_boolean(self) -> bool:
        """Whether C holds zeros and ones."""
        return self.right.dtype == np.bool_


def is_boolean(problem: Problem) -> bool:
    """Whether a problem's answers are right or wrong, not so with a probability."""
    return bool(getattr(getattr(problem, "model", None), "is_boolean", False))


def num_states(problem: Problem) -> int:
    """Return the states of the data register: N, or 2^a where pads are marked."""
    count = len(problem.probabilities)
    if getattr(problem, "padding", Padding.EXACT) is Padding.MARK:
        return int(2 ** address_bits(problem))
    return count


def address_bits(problem: Problem) -> int:
    """Return a: qubits that number the samples."""
    return max((len(problem.probabilities) - 1).bit_length(), 1)


def tabulate(problem: Problem) -> Table:
    """Return C over all settings in use and all states of the data register.

    Args:
        problem: with `padding=mark` the columns are 2^a, of which the last are never right.
    """
    register, probabilities = problem.register, problem.probabilities
    codes, count = register.codes(), len(probabilities)
    columns, weighted = num_states(problem), probabilities
    if columns > count:
        weighted = np.concatenate([probabilities * count, np.zeros(columns - count)]) / columns
        weighted[count:] = 1 / columns
    kind = np.bool_ if is_boolean(problem) else np.float64
    right: ndarray = np.zeros((len(codes), columns), dtype=kind)
    rows = max(TABLE_BYTES // (8 * count), 1)
    everything = np.arange(count)
    for start in range(0, len(codes), rows):
        part = register.bits(codes[start : start + rows])
        right[start : start + rows, :count] = problem.evaluate_batch(part, everything)
    return Table(codes, right, weighted)
