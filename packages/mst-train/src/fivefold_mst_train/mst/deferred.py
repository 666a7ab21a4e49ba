"""Scores that are not computed yet: the hidden states, and what the model does to its scores.

A causal model's own forward runs unchanged, around a head that only notes what it is asked. What
the model does to the scores afterwards (a soft cap, a scale) is noted too and done to each chunk.
No model's forward is copied, so none is left behind by the next release of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from fivefold import UserError
from torch import Tensor, nn

from .chunk_loss import Transform

_ELEMENTWISE = {torch.tanh, torch.mul, torch.div, torch.true_divide, torch.multiply, torch.divide}


class DeferredScores:
    """Stands for `head(hidden)` until a loss asks for chunks of it."""

    def __init__(self, hidden: Tensor, operations: Sequence[Transform] = ()) -> None:
        """Keep hidden states, [..., hidden], and the operations on their scores so far."""
        self.hidden = hidden
        self.operations = tuple(operations)

    @property
    def transform(self) -> Transform | None:
        """What is to be done to scores, [row, vocab], before the loss; None: nothing."""
        operations = list(self.operations)
        while operations and operations[-1] is _float:  # the loss makes them float itself
            operations.pop()
        if not operations:
            return None

        def apply(scores: Tensor) -> Tensor:
            for operation in operations:
                scores = operation(scores)
            return scores

        return apply

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the scores."""
        return self.hidden.dtype

    @property
    def device(self) -> torch.device:
        """Where the scores would be."""
        return self.hidden.device

    def _then(self, operation: Transform) -> DeferredScores:
        return DeferredScores(self.hidden, (*self.operations, operation))

    def float(self) -> DeferredScores:
        """Note the conversion to float32."""
        return self._then(_float)

    def contiguous(self) -> DeferredScores:
        """Return the same: every chunk is contiguous."""
        return self

    def to(self, *given: Any, **named: Any) -> DeferredScores:
        """Note a conversion."""
        return self._then(lambda scores: scores.to(*given, **named))

    def tanh(self) -> DeferredScores:
        """Note a hyperbolic tangent."""
        return self._then(torch.tanh)

    def __mul__(self, other: Any) -> DeferredScores:
        return self._then(lambda scores: scores * _scalar(other))

    def __rmul__(self, other: Any) -> DeferredScores:
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> DeferredScores:
        return self._then(lambda scores: scores / _scalar(other))

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> DeferredScores:
        """Note an elementwise function of torch."""
        first = args[0] if args else None
        if function in _ELEMENTWISE and isinstance(first, DeferredScores):
            rest, named = args[1:], kwargs or {}
            return first._then(lambda scores: function(scores, *rest, **named))
        _refuse(getattr(function, "__name__", str(function)))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(name)

    def __getitem__(self, place: Any) -> NoReturn:
        _refuse("indexing")


def _float(scores: Tensor) -> Tensor:
    return scores.float()


def _scalar(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() > 1:
        _refuse("a product with a vector")
    return value


def _refuse(what: str) -> NoReturn:
    raise UserError(
        f"the model does more with its scores than can be done chunk by chunk ({what})",
        setting="training.head.enabled",
        value=True,
        remedy="set training.head.enabled=false to tile the MLPs alone",
    )


class AbsentScores(Tensor):
    """Stands where an evaluated output would hold its scores: using it says what to do instead.

    `Trainer` gathers scores of an evaluation where `compute_metrics` is given. What only looks (a
    dtype, a device) may look.
    """

    def __new__(cls) -> AbsentScores:
        """Make one that holds nothing."""
        return Tensor._make_subclass(cls, torch.empty(0))

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuse every operation."""
        if getattr(func, "__name__", "") == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise UserError(
            "scores of the whole sequence are not made, and something wants them (compute_metrics)",
            setting="training.head.enabled",
            value=True,
            remedy="set prediction_loss_only=True and read output.token_scores (likelihood, "
            "accuracy), or training.head.enabled=false",
        )

    def __repr__(self) -> str:  # type: ignore[override]
        return "AbsentScores()"


class DeferringHead:
    """Takes the head's place while a model's forward runs: it defers, and is the head otherwise."""

    def __init__(self, head: nn.Module) -> None:
        """Keep the head, whose attributes (a weight's dtype) the model may read."""
        self._head = head

    def __call__(self, hidden: Tensor) -> DeferredScores:
        """Note the hidden states."""
        return DeferredScores(hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)
