"""Edge detection: which line detectors tell a full row of a 3 x 3 image."""

from __future__ import annotations

import itertools

import numpy as np
from fivefold import UserError
from jaxtyping import UInt8
from numpy import ndarray

from ..._words import Padding
from ..models.boolean import COLUMNS, DIAGONALS, ROWS, BooleanModel, Line, line_detectors
from ..problem import Training
from ..samples import Samples

PIXELS = 9
TRAIN_OF_512 = 400
"""Patterns that the source's split trains on."""


def every_pattern(num_bits: int = PIXELS) -> UInt8[ndarray, "n bit"]:
    """Return all binary patterns, pattern i holding the bits of i, bit 0 first."""
    return (np.arange(2**num_bits)[:, None] >> np.arange(num_bits) & 1).astype(np.uint8)


def edge_samples() -> Samples:
    """Return all 512 images, label 1 where some full row is set (169 of them)."""
    images = every_pattern()
    full = images[:, np.array(ROWS)].all(-1).any(-1)
    return Samples.of(images, np.asarray(full))


def edge3(split_seed: int | None = None, padding: Padding = Padding.EXACT) -> Training:
    """Return edge detection with three weights: rows, columns, diagonals.

    Args:
        split_seed: of the random 400 / 112 split; nothing: train on all patterns, test on none.
        padding: how the data register is filled.
    """
    return _training("edge3", line_detectors([ROWS, COLUMNS, DIAGONALS]), split_seed, padding)


def edge8(split_seed: int | None = None, padding: Padding = Padding.EXACT) -> Training:
    """Return edge detection with one weight a detector; only the three rows are right."""
    lines = [[line] for line in (*ROWS, *COLUMNS, *DIAGONALS)]
    return _training("edge8", line_detectors(lines), split_seed, padding)


def edge_with_distractors(
    num_bits: int,
    seed: int = 0,
    split_seed: int | None = None,
    padding: Padding = Padding.EXACT,
) -> Training:
    """Return edge detection with random three-pixel detectors beside the eight lines.

    Beyond the 84 triples of pixels, distractors look at four, then five pixels. The optimum stays
    unique: the three rows alone.

    Args:
        num_bits: detectors, so weight bits; 8 is `edge8`.
        seed: of the distractors.
        split_seed: of the split.
        padding: how the data register is filled.

    Raises:
        UserError: fewer than the eight lines.
    """
    lines: list[Line] = [*ROWS, *COLUMNS, *DIAGONALS]
    if num_bits < len(lines):
        raise UserError(
            f"{num_bits} detectors are fewer than the 8 lines",
            setting="problem.weights",
            remedy="give 8 or more",
        )
    random = np.random.default_rng([seed, 3])
    for size in (3, 4, 5):
        others = [line for line in itertools.combinations(range(PIXELS), size) if line not in lines]
        if size > 3:  # a superset of a row would be right too, and change nothing
            others = [line for line in others if not any(set(r) <= set(line) for r in ROWS)]
        missing = num_bits - len(lines)
        chosen = random.permutation(len(others))[:missing]
        lines += [others[i] for i in chosen]
    model = line_detectors([[line] for line in lines[:num_bits]])
    return _training(f"edge{num_bits}", model, split_seed, padding)


def _training(name: str, model: BooleanModel, split_seed: int | None, padding: Padding) -> Training:
    everything = edge_samples()
    about: dict[str, object] = {"patterns": len(everything), "split_seed": split_seed}
    if split_seed is None:
        return Training(name, model, everything, padding=padding, about=about)
    order = np.random.default_rng([split_seed, 1]).permutation(len(everything))
    train, test = np.split(order, [TRAIN_OF_512])
    return Training(name, model, everything.take(train), everything.take(test), padding, about)
