"""From a problem's name and settings to the problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fivefold import UserError, nearest

from ..._words import Padding, Weighting
from ..problem import Training

NAMES = ("edge3", "edge8", "edge", "tiny_mnist", "images", "xor", "not_and")
"""The problems that `make_problem` knows."""


def make_problem(
    name: str,
    *,
    digits: Sequence[int] = (6, 7),
    path: str = "",
    size: int = 3,
    weights: int = 12,
    split_seed: int | None = None,
    test_share: float = 0.0,
    weighting: Weighting = Weighting.UNIFORM,
    padding: Padding = Padding.EXACT,
    seed: int = 0,
) -> Training:
    """Return a problem by name.

    Args:
        name: one of `NAMES`.
        digits: the two classes of `tiny_mnist` and `images`.
        path: of the user's images, for `images`; `tiny_mnist` takes scikit-learn's digits without.
        size: pixels along each side of a shrunken image.
        weights: detectors of `edge`, the eight lines among them.
        split_seed: of the edge tasks' 400 / 112 split; nothing: train on all patterns.
        test_share: part of the images kept for testing.
        weighting: whether distinct patterns count the same or as often as they occur.
        padding: how the data register is filled.
        seed: of distractors and of the images' split.

    Raises:
        UserError: an unknown name, or settings that the problem cannot take.
    """
    from . import edge, images, warm_ups

    if len(digits) != 2:
        raise UserError(
            f"{len(digits)} classes, a flag tells two apart",
            setting="problem.digits",
            value=list(digits),
            remedy="give two, as in [6,7], or fit one class against the rest",
        )
    if name == "images" and not path:
        raise UserError(
            "no images are named",
            setting="problem.path",
            remedy="give a folder with a sub-folder a class, or an .npz of images and labels",
        )

    def tiny() -> Training:
        found = images.read_images(path) if path else images.bundled_digits()
        pair = (int(digits[0]), int(digits[1]))
        return images.tiny(
            found,
            pair,
            size=size,
            weighting=weighting,
            padding=padding,
            test_share=test_share,
            seed=seed,
        )

    makers: dict[str, Callable[[], Training]] = {
        "edge3": lambda: edge.edge3(split_seed, padding),
        "edge8": lambda: edge.edge8(split_seed, padding),
        "edge": lambda: edge.edge_with_distractors(weights, seed, split_seed, padding),
        "tiny_mnist": tiny,
        "images": tiny,
        "xor": lambda: warm_ups.xor(padding),
        "not_and": lambda: warm_ups.not_and(padding),
    }
    if name not in makers:
        raise UserError(
            "no such problem", setting="problem", value=name, remedy=nearest(name, NAMES)
        )
    return makers[name]()
