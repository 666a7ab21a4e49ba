"""From the settings of `problem=` to the problem."""

from __future__ import annotations

from pathlib import Path

from fivefold import UserError, nearest

from ..._words import Alphabet
from ...groups import MODELS, PROBLEMS, ProblemConfig
from ..models.angle import AngleModel
from ..models.boolean import binary_perceptron, masked_or
from ..models.linear import LinearModel
from ..problem import Model, Training
from ..weights import TERNARY, WeightSpec
from . import edge, images, warm_ups

_OF_IMAGES = ("digits", "model", "bits", "size", "weighting", "test_share")
_OF_DISTRACTORS = ("weights", "distractor_seed")


def choose_problem(config: ProblemConfig) -> Training:
    """Return the problem that settings name.

    Raises:
        UserError: no such problem, file or folder, or settings that it cannot take.
    """
    _refuse_unused(config)
    split = config.split_seed if config.split else None
    match config.name:
        case "edge3":
            return edge.edge3(split, config.padding)
        case "edge8":
            return edge.edge8(split, config.padding)
        case "edge_distractors":
            return edge.edge_with_distractors(
                config.weights, config.distractor_seed, split, config.padding
            )
        case "xor":
            return warm_ups.xor(config.padding)
        case "not_and":
            return warm_ups.not_and(config.padding)
        case "tiny_mnist":
            return _tiny(config, images.bundled_digits())
    if not Path(config.name).exists():
        remedy = f"{nearest(config.name, PROBLEMS)}, or name a folder or .npz of images"
        raise UserError("no such problem", setting="problem", value=config.name, remedy=remedy)
    return _tiny(config, images.read_images(config.name))


def _refuse_unused(config: ProblemConfig) -> None:
    """Refuse settings that a problem would not look at: what runs is not what was meant."""
    has_lines = config.name == "edge_distractors"
    has_images = config.name == "tiny_mnist" or config.name not in PROBLEMS
    plain = ProblemConfig()
    for names, is_used, users in (
        (_OF_IMAGES, has_images, "tiny_mnist, or to images of yours"),
        (_OF_DISTRACTORS, has_lines, "edge_distractors"),
    ):
        for name in () if is_used else names:
            value = getattr(config, name)
            if value != getattr(plain, name):
                raise UserError(
                    f"not a setting of {config.name}",
                    setting=f"problem.{name}",
                    value=value,
                    remedy=f"it belongs to {users}; leave it out",
                )


def _tiny(config: ProblemConfig, found: images.Images) -> Training:
    return images.tiny(
        found,
        (int(config.digits[0]), int(config.digits[1])),
        model=model_of(config.model, config.size**2, config.bits),
        size=config.size,
        weighting=config.weighting,
        padding=config.padding,
        test_share=config.test_share if config.split else 0.0,
        seed=config.split_seed,
    )


def model_of(name: str, num_features: int, bits: int = 2) -> Model:
    """Return a model of binary features by name.

    Args:
        name: one of `MODELS`.
        num_features: inputs.
        bits: of each weight, where the model leaves the choice.

    Raises:
        UserError: no such model.
    """
    match name:
        case "masked_or":
            return masked_or(num_features)
        case "perceptron":
            return binary_perceptron(num_features)
        case "ternary":
            return LinearModel(num_features, TERNARY)
        case "fixed":
            return LinearModel(num_features, WeightSpec(Alphabet.FIXED, bits))
        case "angle":
            return AngleModel(num_features, bits)
    raise UserError("no such model", setting="model", value=name, remedy=nearest(name, MODELS))
