"""Training samples as a distribution over distinct patterns, and the register that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fivefold import UserError
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from .._words import Weighting


@dataclass(frozen=True)
class Samples:
    """Binary patterns with labels: what the data register holds in superposition."""

    features: UInt8[ndarray, "n feature"]
    """Zeros and ones."""
    labels: UInt8[ndarray, " n"]
    """Zeros and ones."""
    probabilities: Float[ndarray, " n"]
    """p_i: what each sample counts; they sum to 1."""

    @classmethod
    def of(
        cls,
        features: ndarray,
        labels: ndarray,
        probabilities: Float[ndarray, " n"] | None = None,
        *,
        setting: str = "problem",
    ) -> Samples:
        """Check arrays and return them as samples, each counting the same unless told otherwise.

        Raises:
            UserError: nothing, NaNs, values other than 0 and 1, or one class only.
        """
        features, labels = np.asarray(features), np.asarray(labels).ravel()
        if features.ndim != 2 or not features.size or len(features) != len(labels):
            problem = f"no samples: features of shape {features.shape}, {len(labels)} labels"
            raise UserError(problem, setting=setting, remedy="give one row of features a label")
        if not _is_binary(features):
            raise UserError(
                "features other than 0 and 1 (or NaN) cannot enter a Boolean model",
                setting=setting,
                remedy="binarise them first, as sklearn.preprocessing.Binarizer does",
            )
        if not _is_binary(labels):
            raise UserError(
                f"{len(np.unique(labels))} labels that are not 0 and 1",
                setting=setting,
                remedy="train one class against the rest, or map two classes to 0 and 1",
            )
        if len(np.unique(labels)) < 2:
            raise UserError(
                "all training samples have the same label",
                setting=setting,
                remedy="give samples of both classes",
            )
        count = len(labels)
        given = np.full(count, 1 / count) if probabilities is None else np.asarray(probabilities)
        return cls(features.astype(np.uint8), labels.astype(np.uint8), given / given.sum())

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    @property
    def num_features(self) -> int:
        """Pixels, or other binary inputs."""
        return int(self.features.shape[1])

    @property
    def address_bits(self) -> int:
        """Qubits that number the samples: ceil(log2 N)."""
        return max(int(np.ceil(np.log2(len(self)))), 1)

    @property
    def is_uniform(self) -> bool:
        """Whether every sample counts the same."""
        return bool(np.ptp(self.probabilities) < 1e-15)

    def take(self, indices: Sequence[int] | Int[ndarray, " m"]) -> Samples:
        """Return some samples in a given order; their probabilities are made to sum to 1."""
        chosen = self.probabilities[indices]
        return Samples(self.features[indices], self.labels[indices], chosen / chosen.sum())


def collapse(
    features: UInt8[ndarray, "n feature"],
    labels: UInt8[ndarray, " n"],
    weighting: Weighting = Weighting.UNIFORM,
) -> Samples:
    """Return the distinct patterns with the label of their majority; ties are dropped.

    Raises:
        UserError: when nothing, or one class, is left.
    """
    patterns, place = np.unique(features, axis=0, return_inverse=True)
    place = place.ravel()
    ones = np.bincount(place, weights=labels, minlength=len(patterns))
    counts = np.bincount(place, minlength=len(patterns))
    kept = 2 * ones != counts
    weights = counts[kept] if weighting is Weighting.MULTIPLICITY else None
    return Samples.of(
        patterns[kept],
        (2 * ones > counts)[kept],
        None if weights is None else weights / weights.sum(),
    )


def _is_binary(values: ndarray) -> bool:
    """Whether all values are 0 or 1; NaN is neither."""
    return values.dtype.kind in "biuf" and bool(np.isin(values, (0, 1)).all())
