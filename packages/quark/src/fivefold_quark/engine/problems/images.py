"""Images to binary patterns: resized, binarised at the mean, collapsed to distinct patterns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from fivefold import UserError
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from ..._words import Padding, Weighting
from ..models.boolean import masked_or
from ..problem import Model, Training
from ..samples import Samples, collapse

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class Images:
    """Grey images with their classes."""

    pixels: Float[ndarray, "n height width"]
    labels: Int[ndarray, " n"]
    source: str
    """Where they came from."""
    names: tuple[str, ...] = ()
    """Names of classes 0, 1, ..., where they have names."""


def bundled_digits() -> Images:
    """Return the 1797 digits of 8 x 8 pixels that scikit-learn ships."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Images(pixels.reshape(-1, 8, 8), labels.astype(np.int64), "scikit-learn digits")


def read_images(path: str | Path) -> Images:
    """Read a user's images: a folder of one sub-folder a class, or an `.npz` of `images`, `labels`.

    Raises:
        UserError: nothing there, or nothing that can be read.
    """
    found = Path(path)
    if found.is_dir():
        return _read_folder(found)
    if found.is_file():
        return _read_archive(found)
    raise UserError("no such file or folder", setting="problem.name", value=str(path))


def tiny(
    images: Images,
    classes: tuple[int, int],
    *,
    model: Model | None = None,
    size: int = 3,
    weighting: Weighting = Weighting.UNIFORM,
    padding: Padding = Padding.EXACT,
    test_share: float = 0.0,
    seed: int = 0,
) -> Training:
    """Return the problem of telling two classes of shrunken images apart.

    Args:
        images: of any size; block means make them `size` x `size`.
        classes: label 0 and label 1.
        model: of `size` x `size` pixels; the source's when not given.
        size: pixels along each side.
        weighting: whether each distinct pattern counts the same, or as often as it occurs.
        padding: how the data register is filled.
        test_share: part of the images kept out of training, before patterns are collapsed.
        seed: of that split.

    Raises:
        UserError: a class that is not there, or nothing left after collapsing.
    """
    there = np.unique(images.labels)
    if len(there) < 2:
        raise UserError(
            f"{images.source} holds {'one class only' if len(there) else 'no images'}",
            setting="problem.name",
            remedy="give images of two classes",
        )
    for label in classes:
        if label not in there:
            known = ", ".join(_called(int(other), images.names) for other in there[:12])
            raise UserError(
                f"no image of class {label} in {images.source}",
                setting="problem.digits",
                remedy=f"choose two of {known}",
            )
    if classes[0] == classes[1]:
        raise UserError(
            "one class cannot be told from itself",
            setting="problem.digits",
            value=list(classes),
            remedy="give two different ones",
        )
    kept = np.isin(images.labels, classes)
    pixels, labels = images.pixels[kept], (images.labels[kept] == classes[1]).astype(np.uint8)
    small = shrink(pixels, size)
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    held_out, trained = np.split(order, [int(test_share * len(labels))])
    threshold = float(small[trained].mean())
    patterns = (small > threshold).reshape(len(small), -1).astype(np.uint8)
    train = collapse(patterns[trained], labels[trained], weighting)
    test = _every(patterns[held_out], labels[held_out]) if len(held_out) else None
    about: dict[str, object] = {
        "source": images.source,
        "images": len(labels),
        "patterns": len(train),
        "threshold": threshold,
        "weighting": str(weighting),
    }
    name = f"tiny{classes[0]}{classes[1]}"
    return Training(name, model or masked_or(size * size), train, test, padding, about)


def _called(label: int, names: tuple[str, ...]) -> str:
    return f"{label} ({names[label]})" if names else str(label)


def shrink(pixels: Float[ndarray, "n height width"], size: int) -> Float[ndarray, "n size size"]:
    """Return block means: each image cut into `size` x `size` blocks, as even as they can be.

    Raises:
        UserError: images smaller than that, or pixels that are not numbers.
    """
    if min(pixels.shape[1:]) < size:
        raise UserError(
            f"images of {pixels.shape[1]} x {pixels.shape[2]} pixels are below {size} x {size}",
            setting="problem.size",
            remedy="give a smaller size",
        )
    if not np.isfinite(pixels).all():
        raise UserError("pixels that are not numbers", setting="problem.name", remedy="repair them")
    rows, columns = _blocks(pixels.shape[1], size), _blocks(pixels.shape[2], size)
    found: Float[ndarray, "n size size"] = np.einsum("ah,nhw,bw->nab", rows, pixels, columns)
    return found


def _blocks(length: int, size: int) -> Float[ndarray, "size length"]:
    """Return the matrix that averages `size` stretches of a line, whole pixels, the longer first.

    As `numpy.array_split` cuts: 8 pixels into 3, 3 and 2.
    """
    found = np.zeros((size, length))
    for row, stretch in enumerate(np.array_split(np.arange(length), size)):
        found[row, stretch] = 1 / len(stretch)
    return found


def _every(patterns: UInt8[ndarray, "n pixel"], labels: UInt8[ndarray, " n"]) -> Samples:
    """Return test images as they are, repeated patterns and all."""
    return Samples(patterns, labels, np.full(len(labels), 1 / len(labels)))


def _read_folder(folder: Path) -> Images:
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    pictures = {path: [f for f in sorted(path.iterdir()) if _is_picture(f)] for path in folders}
    classes = [path for path in folders if pictures[path]]
    if not classes:
        raise UserError(
            "no images in sub-folders",
            setting="problem.name",
            value=str(folder),
            remedy="put each class into a folder of its own, named by its label",
        )
    names = tuple(path.name for path in classes)
    are_numbers = all(name.isdecimal() for name in names)
    numbers = [int(name) for name in names] if are_numbers else range(len(names))
    opened = [_open_image(file) for path in classes for file in pictures[path]]
    smallest = min(image.width for image in opened), min(image.height for image in opened)
    same = [np.asarray(image.resize(smallest, Image.Resampling.BOX), float) for image in opened]
    labels = np.repeat(np.array(numbers), [len(pictures[path]) for path in classes])
    return Images(np.stack(same), labels, folder.name, () if are_numbers else names)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            is_deep = opened.mode.startswith(("I", "F"))  # more than 8 bits: "L" would clip them
            return opened.convert("F" if is_deep else "L")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(
            f"cannot read the image {path.name}: {error}",
            setting="problem.name",
            remedy="remove it",
        ) from error


def _read_archive(path: Path) -> Images:
    remedy = "save it with numpy.savez(images=[n, height, width], labels=[n])"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise UserError(
            f"cannot read {path.name}: {_reason(path, error)}",
            setting="problem.name",
            remedy=remedy,
        ) from error
    for name, found, kinds, wanted in (
        ("images", images, "biuf", "numbers"),
        ("labels", labels, "biu", "whole numbers"),
    ):
        if found.dtype.kind not in kinds:
            raise UserError(
                f"{name} of type {found.dtype} in {path.name}",
                setting="problem.name",
                remedy=f"give {wanted}",
            )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"images of shape {images.shape} with labels of shape {labels.shape}",
            setting="problem.name",
            remedy="give grey images [n, height, width] and whole labels [n]",
        )
    return Images(images.astype(np.float64), labels.astype(np.int64), path.name)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file is no archive; numpy's own words would have it unpickled."""
    if isinstance(error, OSError):
        return str(error)
    with path.open("rb") as file:
        start = file.read(6)
    if not start:
        return "it is empty"
    if start == b"\x93NUMPY":
        return "it holds one array, without names"
    return str(error) if start.startswith(b"PK") else "it is no .npz"
