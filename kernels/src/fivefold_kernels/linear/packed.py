"""A matrix packed for the CPU kernels, and its product with rows."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..errors import UnsupportedError
from ..native import abi
from ..native.arguments import check_floats, check_indices, thread_count
from ..native.memory import streamed_bytes
from .reference import GROUP, Format


class Blocks:
    """Names of the block formats of GGUF files that can be packed without rounding."""

    Q4_1 = "Q4_1"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"


_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_BLOCKS = {
    Blocks.Q4_1: (2, Format.Q4, 20),
    Blocks.Q8_0: (3, Format.Q8, 34),
    Blocks.Q4_0: (4, Format.Q4, 18),
}


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [out, in] in tiles, for one build of the kernels.

    A row of a product does not depend on the rows beside it, nor on the number of threads.
    """

    library: ctypes.CDLL
    format: Format
    out_features: int
    in_features: int
    data: UInt8[Tensor, " byte"]
    scales: Float[Tensor, " out_padded"]
    bias: Float[Tensor, " out"] | None = None

    @classmethod
    def pack(
        cls,
        weight: Float[Tensor, "out in"],
        format: Format,
        library: ctypes.CDLL,
        bias: Float[Tensor, " out"] | None = None,
    ) -> PackedMatrix:
        """Pack a matrix of floats; I8, Q4 and Q8 round it to nearest.

        Raises:
            UnsupportedError: the weight is not float32 or bfloat16 on the CPU, or is to be rounded
                and holds what is no number.
        """
        if weight.device.type != "cpu" or weight.dtype not in _KINDS or weight.ndim != 2:
            raise UnsupportedError(
                f"a {weight.ndim}-dimensional {weight.dtype} weight on {weight.device}; the CPU "
                "kernels pack float32 and bfloat16 matrices on the CPU"
            )
        if format not in tuple(Format) or 0 in weight.shape:
            raise UnsupportedError(f"format {format!r} of a matrix {tuple(weight.shape)}")
        source = weight.detach().contiguous()
        out_features, in_features = weight.shape
        if bias is not None:
            check_floats("bias", bias, (out_features,))
        if format not in (Format.F32, Format.BF16) and not bool(source.isfinite().all()):
            raise UnsupportedError("a weight holds NaN or inf, which rounding would hide")
        return cls._packed(
            source, _KINDS[weight.dtype], format, out_features, in_features, library, bias
        )

    @classmethod
    def of_blocks(
        cls,
        blocks: UInt8[Tensor, "out row_bytes"],
        kind: str,
        library: ctypes.CDLL,
    ) -> PackedMatrix:
        """Pack the blocks of a GGUF tensor as they are, without rounding.

        Raises:
            UnsupportedError: the blocks are of a kind that is not known here.
        """
        if kind not in _BLOCKS:
            raise UnsupportedError(f"blocks of kind {kind}; known are {', '.join(_BLOCKS)}")
        code, format, size = _BLOCKS[kind]
        if blocks.dtype is not torch.uint8 or blocks.device.type != "cpu" or blocks.ndim != 2:
            raise UnsupportedError(
                f"blocks of {blocks.dtype} {tuple(blocks.shape)} on {blocks.device}; they are "
                "uint8 [out, byte] on the CPU"
            )
        if blocks.shape[1] % size or 0 in blocks.shape:
            raise UnsupportedError(f"rows of {blocks.shape[1]} bytes hold no whole {kind} blocks")
        inputs = blocks.shape[1] // size * GROUP
        return cls._packed(
            blocks.contiguous(), code, format, blocks.shape[0], inputs, library, None
        )

    @classmethod
    def _packed(
        cls,
        source: Tensor,
        kind: int,
        format: Format,
        out_features: int,
        in_features: int,
        library: ctypes.CDLL,
        bias: Tensor | None,
    ) -> PackedMatrix:
        data = streamed_bytes(library.ff_packed_bytes(format, out_features, in_features))
        scales = torch.zeros(out_features + library.ff_tile(format))
        library.ff_pack(
            format,
            kind,
            source.data_ptr(),
            out_features,
            in_features,
            data.data_ptr(),
            scales.data_ptr(),
        )
        kept = None if bias is None else bias.detach().float().contiguous()
        return cls(library, format, out_features, in_features, data, scales, kept)

    def with_bias(self, bias: Float[Tensor, " out"]) -> PackedMatrix:
        """Return the same matrix with a bias that its products add.

        Raises:
            UnsupportedError: a bias of another length, or not of floats on the CPU.
        """
        check_floats("bias", bias, (self.out_features,))
        return replace(self, bias=bias.detach().float().contiguous())

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.data.nbytes + (self.scales.nbytes if self.format is Format.I8 else 0)

    def struct(self) -> abi.Matrix:
        """Return what the library knows it by; valid as long as this object is."""
        return abi.Matrix(
            self.format,
            self.out_features,
            self.in_features,
            self.data.data_ptr(),
            self.scales.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
        )

    def rows(self, index: Int[Tensor, " row"]) -> Float[Tensor, "row in"]:
        """Return rows of the matrix as floats, as an embedding does.

        Raises:
            IndexError: an index is outside the matrix.
            UnsupportedError: indices that are no whole numbers on the CPU.
        """
        check_indices("indices", index)
        wanted = index.long().contiguous()
        if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.out_features:
            raise IndexError(f"rows of a matrix of {self.out_features} rows")
        out = torch.empty(wanted.numel(), self.in_features)
        self.library.ff_unpack(
            ctypes.byref(self.struct()), wanted.data_ptr(), wanted.numel(), out.data_ptr()
        )
        return out

    def product(
        self, rows: Float[Tensor, "row in"], threads: int | None = None
    ) -> Float[Tensor, "row out"]:
        """Return x w^T + b in float32, whatever floats x has.

        Args:
            rows: x, on the CPU.
            threads: None takes torch's number.

        Raises:
            UnsupportedError: x is not on the CPU, or has another number of inputs.
            MemoryError: no room for the products.
        """
        if rows.device.type != "cpu" or rows.ndim != 2 or rows.shape[1] != self.in_features:
            raise UnsupportedError(
                f"rows of shape {tuple(rows.shape)} on {rows.device}; this product takes "
                f"[row, {self.in_features}] on the CPU"
            )
        check_floats("rows", rows)
        count = thread_count(threads)
        given = rows.detach().float().contiguous()
        out = torch.empty(given.shape[0], self.out_features)
        if given.shape[0] == 0:
            return out
        status = self.library.ff_linear(
            ctypes.byref(self.struct()),
            given.data_ptr(),
            given.shape[0],
            out.data_ptr(),
            count,
        )
        if status:
            raise MemoryError("no memory for a product")
        return out
