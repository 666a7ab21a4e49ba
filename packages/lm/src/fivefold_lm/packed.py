"""Linear layers that compute with a copy of their weight, packed once for a few rows.

A stock `F.linear` hands its library a plain matrix at every call, and the product of 2 to 32 rows
then costs several times the product of one row. Packed once, the same product is bound by reading
the weights: what makes verifying a tree nearly as cheap as decoding one token. The products are the
same up to rounding, and a row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from fivefold_kernels import Format, PackedMatrix
from fivefold_kernels.linear.reference import linear
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

EXPECTED_ROWS = 16
"""Rows that oneDNN is told to expect; its layout for 16 serves 1 to 128 rows well."""


@runtime_checkable
class Product(Protocol):
    """A packed matrix, ready to be multiplied with rows."""

    def __call__(self, rows: Float[Tensor, "row in"]) -> Float[Tensor, "row out"]:
        """Return `rows @ weight.T + bias` in the dtype of the rows."""
        ...


Pack: TypeAlias = Callable[[Tensor, Tensor | None], Product]
"""Packs a weight, [out, in], and its bias."""


class OneDnnProduct:
    """A matrix in oneDNN's own blocked layout.

    oneDNN keeps one order of summation from 2 rows on, so that a single row, for which it would
    choose another, is computed twice.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), EXPECTED_ROWS)
        self.bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""
        alone = rows.shape[0] == 1
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.expand(2, -1) if alone else rows, self.packed, self.bias, "none", [], ""
        )
        return product[: rows.shape[0]]


@dataclass(frozen=True)
class NativeProduct:
    """A matrix packed for our CPU kernels."""

    matrix: PackedMatrix

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""
        return self.matrix.product(rows).to(rows.dtype)

    def reference(self, rows: Tensor) -> Tensor:
        """Return the same product by plain torch: the weights unpacked, summed in float64."""
        weight = self.matrix.rows(torch.arange(self.matrix.out_features))
        return linear(rows.float(), weight, self.matrix.format, self.matrix.bias).to(rows.dtype)


class PackedLinear(nn.Linear):
    """A linear layer that computes with a packed copy of its weight.

    `weight` and `bias` are the original's own parameters, so that whatever reads them (tied
    embeddings, `state_dict`) finds them where they were. The packed copy does not follow later
    changes of the weight: for inference only.
    """

    is_stock = False
    """Whether it computes by the stock product for now (`stock_products`)."""

    def __init__(self, original: nn.Linear, pack: Pack = OneDnnProduct) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        self.weight, self.bias = original.weight, original.bias
        self.product = pack(original.weight, original.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`; a tensor that needs gradients takes the stock path."""
        product: Product = self.product
        if self.is_stock and self._is_rounded():
            assert isinstance(product, NativeProduct)
            product = product.reference
        elif self.is_stock or self._is_tracked(input):
            return nn.functional.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        return product(rows).view(*input.shape[:-1], self.out_features)

    def _is_rounded(self) -> bool:
        """Whether the packed copy holds other numbers than the weight."""
        return isinstance(self.product, NativeProduct) and self.product.matrix.format >= Format.I8

    def _is_tracked(self, input: Tensor) -> bool:
        return torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)


class BlockLinear(PackedLinear):
    """A linear layer that holds its packed matrix alone; `weight` is unpacked when it is asked for.

    For matrices whose floats were never made, such as the blocks of a GGUF file.
    """

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = matrix.in_features, matrix.out_features
        self.matrix = matrix
        self.dtype = dtype
        self.product = NativeProduct(matrix)

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]
        """The matrix as floats, made anew at each call."""
        return self.matrix.rows(torch.arange(self.out_features)).to(self.dtype)

    @property
    def bias(self) -> Float[Tensor, " out"] | None:  # type: ignore[override]
        """What is added to each product."""
        return None if self.matrix.bias is None else self.matrix.bias.to(self.dtype)

    def _is_tracked(self, input: Tensor) -> bool:
        return False  # for inference only


class BlockEmbedding(nn.Embedding):
    """An embedding that unpacks the rows it is asked for."""

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = matrix.out_features, matrix.in_features
        self.padding_idx = None
        self.matrix = matrix
        self.dtype = dtype

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]
        """All rows as floats, made anew at each call."""
        return self.matrix.rows(torch.arange(self.num_embeddings))

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of tokens."""
        rows = self.matrix.rows(input.reshape(-1)).to(self.dtype)
        return rows.view(*input.shape, self.embedding_dim)


def weight_rows(layer: nn.Module, index: Int[Tensor, " row"]) -> Float[Tensor, "row in"]:
    """Return rows of a layer's weight, without unpacking the others."""
    if isinstance(layer, BlockLinear):
        return layer.matrix.rows(index)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach()[index]


@dataclass(frozen=True)
class PackedHandle:
    """The swapped layers of one model; `revert` puts the originals back."""

    swapped: tuple[tuple[nn.Module, str, nn.Linear], ...]

    def revert(self) -> None:
        """Put every original layer back, bit for bit as it was; what somebody put there stays."""
        for parent, name, original in self.swapped:
            if isinstance(getattr(parent, name, None), PackedLinear):
                setattr(parent, name, original)


@contextmanager
def stock_products(module: nn.Module) -> Iterator[None]:
    """Let packed layers compute by stock products meanwhile: an oracle without our part in it.

    Layers of rounded weights compute by the plain reference of the kernels: the numbers they hold,
    inputs rounded as the format says, summed in float64.
    """
    layers = [part for part in module.modules() if isinstance(part, PackedLinear)]
    for layer in layers:
        layer.is_stock = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_stock = False


def native_pack(format: Format, library: ctypes.CDLL) -> Pack:
    """Return what packs weights in a format for a build of our CPU kernels."""

    def pack(weight: Tensor, bias: Tensor | None) -> NativeProduct:
        return NativeProduct(PackedMatrix.pack(weight, format, library, bias))

    return pack


def packed_product(weight: Tensor, pack: Pack = OneDnnProduct) -> PackedLinear:
    """Return the packed layer of a bare weight matrix, [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return PackedLinear(layer, pack)


def pack_linears(
    module: nn.Module, pack: Pack = OneDnnProduct, head: Pack | None = None
) -> PackedHandle:
    """Swap every plain linear layer below `module` for its packed twin, in place.

    Bytes: one more copy of the swapped weights.

    Args:
        module: a model on the CPU in float32 or bfloat16.
        pack: packs one weight.
        head: packs the output layer's; None: as the others.

    Returns:
        The handle whose `revert` undoes the swap.
    """
    swapped = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    handle = PackedHandle(tuple(swapped))
    try:
        for parent, name, child in swapped:
            setattr(parent, name, PackedLinear(child, head if head and child is output else pack))
    except BaseException:
        handle.revert()
        raise
    return handle
