"""Linear layers whose weights oneDNN has packed once, for the few rows of a decoding step.

A stock `F.linear` hands oneDNN or MKL a plain matrix at every call, and the product of 2 to 32 rows
then costs several times the product of one row. Packed once in oneDNN's own blocked layout, the
same product is bound by reading the weights up to about 8 rows: what makes verifying a tree nearly
as cheap as decoding one token. The products are the same up to rounding, and a row's result does
not depend on the rows beside it: oneDNN keeps one order of summation from 2 rows on, so that a
single row, for which it would choose another, is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EXPECTED_ROWS = 16
"""Rows that oneDNN is told to expect; its layout for 16 serves 1 to 128 rows well."""
PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """A linear layer that computes with a packed copy of its weight.

    `weight` and `bias` are the original's own parameters, so that whatever reads them (tied
    embeddings, `state_dict`) finds them where they were. The packed copy does not follow later
    changes of the weight: for inference only.
    """

    is_stock = False
    """Whether it computes by the stock product for now (`stock_products`)."""

    def __init__(self, original: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        self.weight, self.bias = original.weight, original.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(
            original.weight.detach(), EXPECTED_ROWS
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`; a tensor that needs gradients takes the stock path."""
        tracked = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if self.is_stock or tracked:
            return nn.functional.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        alone = rows.shape[0] == 1
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.expand(2, -1) if alone else rows, self.packed, self.bias, "none", [], ""
        )
        return product[: rows.shape[0]].view(*input.shape[:-1], self.out_features)


@dataclass(frozen=True)
class PackedHandle:
    """The swapped layers of one model; `revert` puts the originals back."""

    swapped: tuple[tuple[nn.Module, str, nn.Linear], ...]

    def revert(self) -> None:
        """Put every original layer back, bit for bit as it was."""
        for parent, name, original in self.swapped:
            setattr(parent, name, original)


@contextmanager
def stock_products(module: nn.Module) -> Iterator[None]:
    """Let packed layers compute by stock products meanwhile: an oracle without our part in it."""
    layers = [part for part in module.modules() if isinstance(part, PackedLinear)]
    for layer in layers:
        layer.is_stock = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_stock = False


def is_packed(module: nn.Module) -> bool:
    """Say whether a model computes with packed layers."""
    return any(isinstance(part, PackedLinear) for part in module.modules())


def packed_product(weight: Tensor) -> PackedLinear:
    """Return the packed layer of a bare weight matrix, [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return PackedLinear(layer)


def can_pack(module: nn.Module) -> bool:
    """Say whether packing applies: oneDNN is there, and the weights are float on the CPU."""
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        weight.device.type == "cpu" and weight.dtype in PACKED_DTYPES
        for weight in module.parameters()
    )


def pack_linears(module: nn.Module) -> PackedHandle:
    """Swap every plain linear layer below `module` for its packed twin, in place.

    Bytes: one more copy of the swapped weights.

    Args:
        module: a model on the CPU in float32 or bfloat16.

    Returns:
        The handle whose `revert` undoes the swap.
    """
    swapped = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in swapped:
        setattr(parent, name, PackedLinear(child))
    return PackedHandle(tuple(swapped))
