"""Randomness without state: every number is a function of where it is used."""

from enum import IntEnum

import torch
from jaxtyping import Float64, Int
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the step of SplitMix64
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of its finaliser, "mix 13"
SHIFTS = (30, 27, 31)
BITS = 52  # of a uniform number: x + 1/2 is then exact in float64, so 0 and 1 never occur


class Purpose(IntEnum):
    """What a random number decides; each purpose has a stream of its own."""

    TARGET = 0
    """Drawing a token from the target's law."""
    DRAFT = 1
    """Drawing draft tokens."""
    ACCEPT = 2
    """Accepting or refusing a draft token."""
    RESIDUAL = 3
    """Drawing after all draft tokens were refused."""
    METHOD = 4
    """Whatever a method decides besides."""


class RandomStream:
    """Random numbers keyed by (seed, request, absolute position, purpose, draw index).

    The key is hashed to a 64-bit state s by SplitMix64's finaliser, a bijection, after each of its
    words; draw i is mix(s + (i + 1) * GOLDEN), SplitMix64's own i-th output. So the numbers do not
    depend on batch, step or node, and a text does not depend on how it was batched.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """

    def __init__(self, seed: int) -> None:
        """Begin a stream; `seed` is any integer, taken modulo 2^64."""
        self.seed = seed

    def uniform(
        self,
        purpose: Purpose,
        request: Int[Tensor, " batch"],
        position: Int[Tensor, " batch"],
        draws: int = 1,
    ) -> Float64[Tensor, "batch draw"]:
        """Draw uniformly from the open interval (0, 1).

        Args:
            purpose: what the numbers decide.
            request: number of the request in each row.
            position: absolute position in the request of the token that is decided.
            draws: how many; draw i is the same whatever their number.
        """
        state = self._state(purpose, request, position)
        order = torch.arange(1, draws + 1, device=state.device)
        bits = _mix(state[:, None] + order * _signed(GOLDEN))
        return (_shift(bits, 64 - BITS).double() + 0.5) * 2.0**-BITS

    def exponential(
        self,
        purpose: Purpose,
        request: Int[Tensor, " batch"],
        position: Int[Tensor, " batch"],
        size: int,
    ) -> Float64[Tensor, "batch draw"]:
        """Draw from the exponential law of mean 1, for a race: argmin of E_i / p_i follows p."""
        return self.uniform(purpose, request, position, size).log_().neg_()

    def _state(self, purpose: Purpose, request: Tensor, position: Tensor) -> Tensor:
        state = torch.zeros_like(position, dtype=torch.long)
        for word in (_signed(self.seed), int(purpose), request, position):
            state = _mix((state ^ word) + _signed(GOLDEN))
        return state


def _mix(x: Tensor) -> Tensor:
    """Scatter 64 bits; int64 products wrap as unsigned ones do."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        x = (x ^ _shift(x, shift)) * _signed(factor)
    return x ^ _shift(x, SHIFTS[-1])


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right as an unsigned number."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """Write an unsigned 64-bit number as the int64 of the same bits."""
    x %= 1 << 64
    return x - (1 << 64) if x >= 1 << 63 else x
