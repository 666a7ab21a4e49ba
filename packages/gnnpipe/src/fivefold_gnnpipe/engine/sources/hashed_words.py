"""Short texts as features: each word hashed to a column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_TOKEN = re.compile(r"[a-z][a-z0-9+]+")


def hashed_words(texts: Sequence[str], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words of each text as CSR parts (starts, columns, values).

    A word's column is blake2b on 64 bits modulo `width`, its value 1/√(different words of the
    text).
    """
    column: dict[str, int] = {}
    indptr, indices, values = [0], [], []
    for text in texts:
        tokens = sorted(set(_TOKEN.findall(text.lower())))
        for token in tokens:
            if token not in column:
                number = int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "big")
                column[token] = number % width
        indices += [column[token] for token in tokens]
        values += [len(tokens) ** -0.5 for _ in tokens]
        indptr.append(len(indices))
    return (
        np.array(indptr, dtype=np.int64),
        np.array(indices, dtype=np.int32),
        np.array(values, dtype=np.float32),
    )


def dense(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, width: int
) -> Float[Tensor, "row column"]:
    """Return CSR features as a dense matrix; entries that stand twice are added."""
    rows = torch.from_numpy(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)))
    x = torch.zeros(len(indptr) - 1, width)
    columns = torch.from_numpy(indices.astype(np.int64))
    return x.index_put_((rows, columns), torch.from_numpy(values).float(), accumulate=True)
