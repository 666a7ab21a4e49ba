"""Triton, where it is installed: loading the modules that need it, and what all of them refuse."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from .errors import UnsupportedError

DEVICES = ("cuda", "xpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def load_kernels(name: str) -> ModuleType:
    """Import a module of Triton kernels, such as `fivefold_kernels.linear.gpu_kernels`.

    Raises:
        UnsupportedError: Triton is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "no Triton; pip install 'fivefold-kernels[gpu]', or use the kernels for the CPU"
        ) from error


def is_interpreted(kernels: ModuleType) -> bool:
    """Whether TRITON_INTERPRET=1 was set when the kernels were imported: they run on the CPU."""
    compiled = kernels.triton.JITFunction
    return not any(isinstance(each, compiled) for each in vars(kernels).values())


def check_device(kernels: ModuleType, first: Tensor, *others: Tensor) -> None:
    """Refuse tensors that are not on one GPU.

    Raises:
        UnsupportedError: says where they may lie.
    """
    if first.device.type not in DEVICES and not is_interpreted(kernels):
        raise UnsupportedError(
            f"tensors on {first.device}; this kernel takes {' or '.join(DEVICES)}: another serves "
            "the CPU, or set TRITON_INTERPRET=1 before Triton is imported"
        )
    if any(each.device != first.device for each in others):
        raise UnsupportedError(f"tensors on several devices; move all of them to {first.device}")


def check_dense(kernels: ModuleType, *tensors: Tensor) -> None:
    """Refuse tensors that are not on one GPU, not contiguous, or of numbers of another kind.

    Raises:
        UnsupportedError: says what the kernels take.
    """
    check_device(kernels, *tensors)
    if any(each.is_floating_point() and each.dtype not in DTYPES for each in tensors):
        raise UnsupportedError("numbers must be float32, bfloat16 or float16")
    if not all(each.is_contiguous() for each in tensors):
        raise UnsupportedError("tensors must be contiguous")
