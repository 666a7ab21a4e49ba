"""How much a text repeats itself: a model that loops flatters every drafting method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SPAN = 4
"""Tokens in a run that counts as repeated."""


def repeated_4grams(texts: Iterable[Sequence[int]]) -> float | None:
    """Return the share of 4-grams that stood earlier in the same text.

    Args:
        texts: token ids of each text.

    Returns:
        A share between 0 and 1; `None` when no text has four tokens.
    """
    total = repeated = 0
    for text in texts:
        runs = [tuple(text[start : start + SPAN]) for start in range(len(text) - SPAN + 1)]
        total += len(runs)
        repeated += len(runs) - len(set(runs))
    return repeated / total if total else None
