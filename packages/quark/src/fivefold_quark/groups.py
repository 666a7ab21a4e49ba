"""The shared node of the quantum tasks: `problem=NAME`. Light: no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

from fivefold import Group, UserError
from fivefold.errors import nearest

from ._words import Padding, Weighting
from .config import check_seed

PROBLEMS = ("edge3", "edge8", "edge_distractors", "tiny_mnist", "xor", "not_and")
"""Problems that come with the package; any other name is a folder or `.npz` of images."""
MODELS = ("masked_or", "perceptron", "ternary", "fixed", "angle")
"""Models of images; the edge problems and the warm-ups have their own."""


@dataclass
class ProblemConfig:
    """A model with discretised weights, and the samples that it should get right."""

    name: str = "edge3"
    """A problem, or a folder (one sub-folder a class) or `.npz` (`images`, `labels`) of images."""
    digits: list[int] = field(default_factory=lambda: [6, 7])
    """The two classes of images: label 0 and label 1."""
    model: str = field(default="masked_or", metadata={"choices": MODELS})
    """Model of images: `masked_or` (the source's), `perceptron` (signs), `ternary` or `fixed`
    (linear threshold), `angle` (a rotated qubit)."""
    bits: int = 2
    """Bits of each weight of `fixed` and `angle`."""
    size: int = 3
    """Images are shrunk to so many pixels a side."""
    weights: int = 10
    """Detectors of `edge_distractors`, so weight bits."""
    distractor_seed: int = 0
    """Seed of the detectors of `edge_distractors`."""
    weighting: Weighting = Weighting.UNIFORM
    """What each distinct image counts: `uniform`, or `multiplicity` (as often as it occurs)."""
    padding: Padding = Padding.EXACT
    """How N samples fill a register of 2^a states: `exact`, or `mark` (pads are never right)."""
    split: bool = True
    """Keep samples for testing: 112 of the 512 edge patterns, `test_share` of images."""
    test_share: float = 0.25
    """Part of the images kept for testing."""
    split_seed: int = 0
    """Seed of that split."""

    def __post_init__(self) -> None:
        if len(self.digits) != 2:
            raise UserError("not a pair of classes", setting="digits", remedy="give two, [6,7]")
        if self.model not in MODELS:
            raise UserError("no such model", setting="model", remedy=nearest(self.model, MODELS))
        if not 1 <= self.bits <= 8:
            raise UserError("too many or too few bits", setting="bits", remedy="give 1 to 8")
        if not 1 <= self.size <= 8:
            raise UserError("no image of that size", setting="size", remedy="give 1 to 8")
        check_seed(self.distractor_seed, "distractor_seed")
        check_seed(self.split_seed, "split_seed")
        if not 0.0 < self.test_share < 1.0:
            raise UserError("not a part", setting="test_share", remedy="give 0 to 1")


PROBLEM = Group(
    node="problem",
    config=ProblemConfig,
    options={name: {"name": name} for name in PROBLEMS},
    default="edge3",
    free="name",
)
