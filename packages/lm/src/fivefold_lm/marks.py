"""What a model is told apart by: a few numbers of every weight."""

import torch
from fivefold_kernels import PackedMatrix
from torch import Tensor

SAMPLED_NUMBERS = 64  # of each weight


def weight_mark(name: str, weight: Tensor) -> bytes:
    """Return name, shape, number format and some numbers of a weight."""
    flat = weight.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // SAMPLED_NUMBERS)].to("cpu", torch.float32)
    return f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + some.numpy().tobytes()


def matrix_mark(name: str, matrix: PackedMatrix) -> bytes:
    """Return name, size, format and some rows of a packed matrix."""
    ends = torch.tensor([0, matrix.out_features // 2, matrix.out_features - 1])
    about = f"{name} {matrix.out_features} {matrix.format}".encode()
    return about + matrix.rows(ends).numpy().tobytes()
