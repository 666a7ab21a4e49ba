"""What every baseline does at its ends: keep the best, call back, write the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from ..ledger import Ledger
from ..optimizer import Callback, Incumbent, OptimizationResult, Progress
from ..problem import Problem

CERTAIN = 1.0 - 1e-12


class BestSoFar:
    """The best setting of a classical search, and who is told about it.

    Args:
        method: the optimiser's name.
        problem: what is searched.
        ledger: what is spent; read when a better setting is found.
        callbacks: told after each round.
    """

    def __init__(
        self, method: str, problem: Problem, ledger: Ledger, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.accuracy = -1.0
        self.began = time.monotonic()
        self._method = method
        self._problem = problem
        self._ledger = ledger
        self._callbacks = callbacks
        self._incumbents: list[Incumbent] = []

    def take(self, bits: UInt8[ndarray, " bit"], accuracy: float) -> None:
        """Keep a setting whose exact accuracy is better."""
        accuracy = min(accuracy, 1.0)  # sums of p_i may end a bit above
        if accuracy > self.accuracy + 1e-12:
            self.accuracy = accuracy
            weights = tuple(int(bit) for bit in bits)
            self._incumbents.append(Incumbent(weights, accuracy, self._ledger.copy()))

    def report(self, count: int) -> None:
        """Call back after so many rounds."""
        progress = Progress(count, 0, 0.0, self.accuracy, self._ledger.copy())
        for callback in self._callbacks:
            callback(progress)

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.monotonic() - self.began

    def result(self, stopped: str, **details: Any) -> OptimizationResult:
        """Return what the search found.

        Raises:
            KeyboardInterrupt: it was interrupted before anything was evaluated.
        """
        if not self._incumbents:
            raise KeyboardInterrupt
        best = self._incumbents[-1]
        bits = np.array([best.weights], dtype=np.uint8)
        tested = getattr(self._problem, "test_accuracy", lambda _: None)(bits)
        return OptimizationResult(
            method=self._method,
            weights=best.weights,
            train_accuracy=best.accuracy,
            test_accuracy=None if tested is None else float(tested[0]),
            ledger=self._ledger,
            stopped=stopped,
            incumbents=self._incumbents,
            details=details,
        )
