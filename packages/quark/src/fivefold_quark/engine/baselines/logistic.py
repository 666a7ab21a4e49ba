"""Logistic regression of scikit-learn on the same inputs: what most people would try first."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ..problem import Training
from ..samples import Samples


@dataclass(frozen=True)
class Logistic:
    """What logistic regression reaches."""

    train_accuracy: float
    test_accuracy: float | None
    iterations: int
    """Steps of its solver."""
    seconds: float
    """Of the fit."""


def logistic_regression(training: Training) -> Logistic:
    """Fit scikit-learn's logistic regression to a problem's training samples, each by its p_i.

    It is another model, with real weights; it says how hard the task is, not how good a search is.
    """
    from sklearn.linear_model import LogisticRegression

    train = training.train
    model = LogisticRegression(max_iter=1000)
    began = time.perf_counter()
    model.fit(train.features, train.labels, sample_weight=train.probabilities * len(train))
    seconds = time.perf_counter() - began

    def accuracy(samples: Samples) -> float:
        right = model.predict(samples.features) == samples.labels
        return float(right @ samples.probabilities)

    test = None if training.test is None else accuracy(training.test)
    return Logistic(accuracy(train), test, int(np.max(model.n_iter_)), seconds)
