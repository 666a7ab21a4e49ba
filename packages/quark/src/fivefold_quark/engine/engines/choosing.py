"""Which engine runs a problem."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from fivefold import UserError, nearest

from ..._words import EngineName
from ..problem import Problem
from .protocol import Engine
from .sampling import elements

AUTO_ELEMENTS = 2**26
"""Omega x 2^a up to which `auto` takes the tensor engine; above it the user decides."""

_HOMES = {
    EngineName.ANALYTIC: ("analytic", "Analytic"),
    EngineName.TENSOR: ("tensor", "Tensor"),
    EngineName.COMPILED: ("compiled", "Compiled"),
    EngineName.REDUCED: ("reduced", "Reduced"),
    EngineName.GATES: ("gates", "Gates"),
}


def build_engine(name: str, problem: Problem, **options: Any) -> Engine:
    """Return an engine bound to a problem.

    Args:
        name: an `EngineName`; `auto` is `tensor` as long as Omega x N is at most 2^26.
        problem: weights and samples.
        options: what only this engine takes; of `gates`: `sampler`, `noise`, `layout`.

    Raises:
        UserError: an unknown engine, or a problem too large for `auto`.
    """
    if name not in set(EngineName):
        raise UserError(
            "no such engine",
            setting="optimization.engine",
            value=name,
            remedy=nearest(name, list(EngineName)),
        )
    chosen = EngineName(name)
    if chosen is EngineName.AUTO:
        size = elements(problem)
        if size > AUTO_ELEMENTS:
            raise UserError(
                f"{problem.register.size} weight settings by {size // problem.register.size} "
                f"samples are {size / AUTO_ELEMENTS:.3g} times more than auto simulates",
                setting="optimization.engine",
                value=name,
                remedy="lower optimization.block_bits, or choose an engine: analytic or tensor",
            )
        chosen = EngineName.TENSOR
    module, kind = _HOMES[chosen]
    loaded: Callable[..., Engine] = getattr(import_module(f".{module}", __package__), kind)
    return loaded(problem, **options)
