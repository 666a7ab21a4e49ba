"""Which kernels a model computes with: ours, oneDNN's packed products, or stock torch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fivefold import UserError
from fivefold.cache import cache_folder
from fivefold_kernels import Format, UnsupportedError, cpu_library
from fivefold_kernels.decoder.gpu import Operations, triton_operations
from fivefold_kernels.native.library import build_name
from torch import nn
from transformers import PreTrainedModel

from .native import NativeDecoder, why_no_pass
from .packed import OneDnnProduct, Pack, PackedHandle, native_pack, pack_linears
from .static import StaticDecoder, cuda_recorder

VARIABLE = "FIVEFOLD_KERNELS"
"""Names the folder of compiled kernels, where that is not to be the cache folder."""
GPU_KERNELS = ("auto", "triton", "torch")
_ATTRIBUTE = "fivefold_kernels"
_ROUNDED = {
    "int8": (Format.I8, Format.I8),
    "int4": (Format.Q4, Format.Q8),
    "file": (Format.Q4, Format.Q8),
}
"""Formats of the layers and of the output layer, which stays at 8 bits as in GGUF files."""
OUR_FLOATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}
"""Number formats that our kernels compute in."""


@dataclass(frozen=True)
class Kernels:
    """How the products of one model are computed."""

    name: str
    """`onednn`, `triton`, or an instruction set of our own kernels, with the weights' format if
    rounded."""
    pack: Pack | None
    """Packs a weight; None: linear layers stay as they are."""
    head: Pack | None = None
    """Packs the output layer; None: as the others."""
    library: ctypes.CDLL | None = None
    """Our own kernels for a CPU."""
    operations: Operations | None = None
    """Our own kernels for a GPU."""
    is_rounded: bool = False
    """Whether the weights are rounded further than the model's own dtype."""

    def for_drafts(self) -> Kernels:
        """Return the kernels that a draft computes with: 8 bits, as its text is verified anyway."""
        if self.library is None:
            return self
        build = self.name.split("-")[0]
        pack = native_pack(Format.I8, self.library)
        return Kernels(f"{build}-int8", pack, library=self.library, is_rounded=True)


@dataclass
class Speedup:
    """What was done to one model; `revert` undoes it."""

    module: nn.Module
    kernels: Kernels
    handle: PackedHandle
    decoder: NativeDecoder | StaticDecoder | None
    """All layers in one call; None: layer by layer, `why_not` says why."""
    why_not: str | None

    def revert(self) -> None:
        """Put the model back as it was, bit for bit; nothing happens the second time."""
        if speedup_of(self.module) is self:
            self.handle.revert()
            delattr(self.module, _ATTRIBUTE)


def choose_kernels(
    name: str,
    weights: str,
    dtype: torch.dtype,
    say: Callable[[str], None] = lambda _: None,
) -> Kernels | None:
    """Return the kernels that `model.kernels` and `model.weights` mean; None: stock torch.

    Args:
        name: `auto`, `onednn`, `torch`, or an instruction set.
        weights: `float`, `int8`, `int4` or `file`.
        dtype: of the model.
        say: told what takes time, or what is missing.

    Raises:
        UserError: the kernels asked for do not run here, or not with such weights.
    """
    if name == "triton":
        raise UserError(
            "Triton's kernels run on a GPU",
            setting="model.kernels",
            value=name,
            remedy="set model.device=cuda, or model.kernels=auto",
        )
    if name == "torch" or (dtype not in OUR_FLOATS and weights != "float"):
        return _without_ours(None, name, weights, dtype)
    if dtype not in OUR_FLOATS:
        _refuse_or_say(name, dtype, say)
        return None
    if name == "onednn":
        return _without_ours(_onednn(), name, weights, dtype)
    try:
        library = cpu_library(name, folder=kernels_folder(), say=say)
    except UnsupportedError as error:
        if weights != "float":
            raise UserError(
                f"the CPU kernels, which hold {weights} weights, do not run here: {error}",
                setting="model.weights",
                value=weights,
                remedy="set model.weights=float",
            ) from error
        if name != "auto":
            raise UserError(
                f"the CPU kernels do not run here: {error}",
                setting="model.kernels",
                value=name,
                remedy="set model.kernels=auto",
            ) from error
        say(f"slower kernels are used: {error}")
        return _onednn()
    chosen = build_name(library)
    if weights == "float":
        return Kernels(chosen, native_pack(OUR_FLOATS[dtype], library), library=library)
    body, head = _ROUNDED[weights]
    packs = native_pack(body, library), native_pack(head, library)
    return Kernels(f"{chosen}-{weights}", *packs, library, is_rounded=True)


def choose_gpu_kernels(
    name: str, device: torch.device, say: Callable[[str], None] = lambda _: None
) -> Kernels | None:
    """Return the kernels that `model.kernels` means on an accelerator; None: stock torch.

    Args:
        name: `auto`, `triton` or `torch`.
        device: where the model runs.
        say: told what is missing.

    Raises:
        UserError: kernels for a CPU, or Triton's where they do not run.
    """
    if name not in GPU_KERNELS:
        raise UserError(
            f"these kernels run on a CPU, and the model on {device.type}",
            setting="model.kernels",
            value=name,
            remedy=f"choose one of {', '.join(GPU_KERNELS)}, or set model.device=cpu",
        )
    if name == "torch" or (name == "auto" and device.type != "cuda"):
        return None
    try:
        if device.type != "cuda":
            raise UnsupportedError(f"passes are recorded on cuda alone, not on {device.type}")
        return Kernels("triton", None, operations=triton_operations())
    except UnsupportedError as error:
        if name == "auto":
            say(f"slower kernels are used: {error}")
            return None
        raise UserError(
            f"Triton's kernels do not run here: {error}",
            setting="model.kernels",
            value=name,
            remedy="set model.kernels=auto",
        ) from error


def speed_up(
    module: PreTrainedModel, kernels: Kernels, say: Callable[[str], None] = lambda _: None
) -> Speedup:
    """Let a model compute with these kernels and, where its layers are known, in one call a pass.

    In place and reversible. Models of the Llama family (Llama, Mistral, Qwen2, Qwen3) with full
    attention run whole passes; in any other model each linear layer is swapped alone, on a CPU.

    Args:
        module: the model, where it will run.
        kernels: chosen for that device.
        say: told later on, if passes turn out not to be recordable.

    Raises:
        ValueError: it is sped up already.
        UnsupportedError: a weight that the kernels do not pack; the model is as it was.
    """
    if speedup_of(module) is not None:
        raise ValueError("this model is sped up already; call revert() of what that returned first")
    handle = PackedHandle(())
    if kernels.pack is not None:
        handle = pack_linears(module, kernels.pack, kernels.head)
    try:
        return _run_native(module, kernels, handle, say)
    except BaseException:
        handle.revert()
        raise


def hold_packed(module: PreTrainedModel, kernels: Kernels) -> Speedup:
    """Let a model whose layers are packed from the start run in one call a pass, where it can."""
    return _run_native(module, kernels, PackedHandle(()), lambda _: None)


def _run_native(
    module: PreTrainedModel, kernels: Kernels, handle: PackedHandle, say: Callable[[str], None]
) -> Speedup:
    ours = kernels.library or kernels.operations
    why_not = "oneDNN has no pass" if ours is None else why_no_pass(module)
    decoder: NativeDecoder | StaticDecoder | None = None
    if why_not is None and kernels.library is not None:
        try:
            decoder = NativeDecoder(module, kernels.library)
        except UnsupportedError as error:
            why_not = str(error)
    elif why_not is None and kernels.operations is not None:
        decoder = StaticDecoder(module, kernels.operations, cuda_recorder(module), say)
    done = Speedup(module, kernels, handle, decoder, why_not)
    object.__setattr__(module, _ATTRIBUTE, done)
    return done


def speedup_of(module: nn.Module) -> Speedup | None:
    """Return what was done to a model, if anything was."""
    return getattr(module, _ATTRIBUTE, None)


def is_rounded(module: nn.Module) -> bool:
    """Say whether a model computes with weights rounded further than its own dtype."""
    done = speedup_of(module)
    return done is not None and done.kernels.is_rounded


def can_speed_up(module: nn.Module) -> bool:
    """Say whether packing applies at all: float weights on the CPU."""
    return all(
        weight.device.type == "cpu" and weight.dtype in OUR_FLOATS for weight in module.parameters()
    )


def _onednn() -> Kernels | None:
    available = torch.backends.mkldnn.is_available()
    return Kernels("onednn", OneDnnProduct) if available else None


def _without_ours(
    kernels: Kernels | None, name: str, weights: str, dtype: torch.dtype
) -> Kernels | None:
    if weights != "float":
        remedies = ["model.kernels=auto"] if name in ("torch", "onednn") else []
        remedies += [] if dtype in OUR_FLOATS else ["model.dtype=float32"]
        raise UserError(
            f"only the CPU kernels hold {weights} weights, with float32 or bfloat16 beside them",
            setting="model.weights",
            value=weights,
            remedy=f"set {' and '.join(remedies)}, or model.weights=float",
        )
    return kernels


def _refuse_or_say(name: str, dtype: torch.dtype, say: Callable[[str], None]) -> None:
    """Say that torch computes in other number formats.

    Raises:
        UserError: kernels were asked for that do not.
    """
    word = str(dtype).removeprefix("torch.")
    if name != "auto":
        raise UserError(
            f"these kernels compute in float32 and bfloat16, not in {word}",
            setting="model.kernels",
            value=name,
            remedy="set model.dtype=float32 or bfloat16, or model.kernels=auto",
        )
    say(f"slower kernels are used: ours compute in float32 and bfloat16, not in {word}")


def kernels_folder() -> Path | None:
    """Return the folder of compiled kernels; None where no cache folder can be written."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).absolute()
    try:
        return cache_folder() / "kernels"
    except UserError:
        return None
