"""One layer's weights in one piece of memory: a layer is one read, or one copy over a link.

Layers of one kind lie alike, at the same offsets, so that a view of a buffer serves all of them.
Source: SpecExec, arXiv 2406.02532, section 4.2, and its release (`offloading/`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from fivefold_kernels import Format, PackedMatrix
from fivefold_kernels.native.memory import HUGE, streamed_zeros
from jaxtyping import UInt8
from torch import Tensor

PAGE = 4096
"""Bytes to which reads past the page cache are aligned: in memory, in the file and in length."""
_LINE = 64  # bytes of a cache line, at which each piece begins

Weights: TypeAlias = dict[str, Tensor | PackedMatrix]
"""The matrices of one layer by the names of their parameters, as the model computes with them."""


@dataclass(frozen=True)
class Piece:
    """Where some numbers lie in a layer's storage."""

    offset: int
    """In bytes."""
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * _dtype(self.dtype).itemsize

    def view(self, storage: Tensor) -> Tensor:
        """Return the numbers where they lie."""
        part = storage[self.offset : self.offset + self.nbytes]
        return part.view(_dtype(self.dtype)).view(self.shape)


@dataclass(frozen=True)
class Place:
    """Where one weight lies: a plain tensor, or a packed matrix with the scales of its outputs."""

    data: Piece
    scales: Piece | None = None
    format: int | None = None
    """Of a packed matrix; None: a plain tensor."""
    features: tuple[int, int] = (0, 0)
    """Outputs and inputs of a packed matrix."""


@dataclass(frozen=True)
class LayerLayout:
    """Where the weights of a layer lie in its storage."""

    places: Mapping[str, Place]
    nbytes: int
    """Of the storage, whole pages."""

    @classmethod
    def of(cls, weights: Weights) -> LayerLayout:
        """Lay weights out one after the other."""
        places: dict[str, Place] = {}
        end = 0

        def put(tensor: Tensor) -> Piece:
            nonlocal end
            offset = -(-end // _LINE) * _LINE
            end = offset + tensor.nbytes
            return Piece(offset, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

        for name, weight in weights.items():
            if isinstance(weight, Tensor):
                places[name] = Place(put(weight))
                continue
            data = put(weight.data)
            scales = put(weight.scales) if weight.format is Format.I8 else None
            features = (weight.out_features, weight.in_features)
            places[name] = Place(data, scales, int(weight.format), features)
        return cls(places, -(-end // PAGE) * PAGE)

    def pieces(self, weights: Weights) -> Iterator[tuple[int, UInt8[Tensor, " byte"]]]:
        """Yield the bytes of a layer's weights, each with its offset.

        Raises:
            ValueError: the weights are laid out otherwise.
        """
        if LayerLayout.of(weights) != self:
            raise ValueError("these weights are laid out otherwise")
        for name, weight in weights.items():
            place = self.places[name]
            data = weight if isinstance(weight, Tensor) else weight.data
            yield place.data.offset, _bytes(data)
            if place.scales is not None:
                assert isinstance(weight, PackedMatrix)
                yield place.scales.offset, _bytes(weight.scales)

    def fill(self, storage: UInt8[Tensor, " byte"], weights: Weights) -> None:
        """Copy a layer's weights into a storage."""
        for offset, piece in self.pieces(weights):
            storage[offset : offset + piece.numel()] = piece

    def views(self, storage: UInt8[Tensor, " byte"], library: ctypes.CDLL | None) -> Weights:
        """Return the weights that a storage holds, or will hold; nothing is copied.

        Args:
            storage: of `nbytes` or more.
            library: the build of the kernels that packed the matrices, if any are packed.
        """
        return {name: _view(place, storage, library) for name, place in self.places.items()}

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        places = {name: asdict(place) for name, place in self.places.items()}
        return {"places": places, "nbytes": self.nbytes}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> LayerLayout:
        """Read it from a manifest."""

        def piece(said: Mapping[str, Any] | None) -> Piece | None:
            if said is None:
                return None
            return Piece(int(said["offset"]), str(said["dtype"]), tuple(said["shape"]))

        places = {}
        for name, place in said["places"].items():
            data = piece(place["data"])
            assert data is not None
            out_features, in_features = place["features"]
            scales, kind = piece(place["scales"]), place["format"]
            places[name] = Place(data, scales, kind, (int(out_features), int(in_features)))
        return cls(places, int(said["nbytes"]))


def aligned_bytes(size: int) -> UInt8[Tensor, " byte"]:
    """Return zeroed bytes on the CPU that begin at a page; in huge pages when they fill some."""
    with torch.inference_mode(False):
        if size >= HUGE:
            return streamed_zeros((size,), torch.uint8)
        room = torch.zeros(size + PAGE, dtype=torch.uint8)
        start = -room.data_ptr() % PAGE
        return room[start : start + size]


def _view(place: Place, storage: Tensor, library: ctypes.CDLL | None) -> Tensor | PackedMatrix:
    if place.format is None:
        return place.data.view(storage)
    assert library is not None, "packed weights need the kernels that packed them"
    format, (out_features, in_features) = Format(place.format), place.features
    scales = (
        torch.zeros(out_features + library.ff_tile(format))
        if place.scales is None
        else place.scales.view(storage)
    )
    data = place.data.view(storage)
    return PackedMatrix(library, format, out_features, in_features, data, scales)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found
