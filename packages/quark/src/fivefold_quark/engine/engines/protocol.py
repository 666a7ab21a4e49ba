"""What an engine answers: how the weights of one shot are distributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..coherent import CoherentTest


@dataclass(frozen=True)
class Amplified:
    """What amplification makes of a register, for every k from 0 up in one pass."""

    probabilities: Float[ndarray, "k omega"]
    """P_k(w) over the settings in use, in ascending order of their codes."""
    flag: Float[ndarray, " k"]
    """Probability that the flag is up after k iterations."""


@dataclass(frozen=True)
class Footprint:
    """What a run would take, known before anything is built."""

    qubits: int
    """Of the circuit, or those that a simulator's array stands for."""
    memory: int
    """Bytes, at the peak."""
    fits: bool
    """Whether this engine takes it on this machine."""
    advice: str = ""
    """What to change where it does not fit."""


@runtime_checkable
class Engine(Protocol):
    """Bound to one problem; the optimiser reaches it through an `Oracle` only."""

    name: str

    def run(self, test: CoherentTest, max_k: int) -> Amplified:
        """Return the distributions for k = 0 .. max_k."""

    def sample(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> Int[ndarray, " shot"]:
        """Return the codes that shots of the weight register after k iterations show."""

    def sample_flag(
        self, test: CoherentTest, k: int, shots: int, random: np.random.Generator
    ) -> int:
        """Return in how many shots the flag is up."""

    def mean_score(self, test: CoherentTest) -> float:
        """Return the exact mean score, which only a simulator knows (`theta_source: exact`)."""

    def footprint(self, test: CoherentTest) -> Footprint:
        """Return qubits and memory of a run."""
