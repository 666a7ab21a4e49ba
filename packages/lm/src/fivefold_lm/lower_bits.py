"""A copy of a model in fewer bits: a draft that needs no training and no second download.

The copy shares embeddings and norms with the model; its matrices are blocks of 32 inputs, as in
GGUF files: up to 4 bits between a minimum and a maximum (Q4_1), more as signed bytes (Q8_0).
Below 5 bits the error of each column is made up for by the columns after it, on texts that the
model reads (GPTQ, arXiv 2210.17323).
"""

from __future__ import annotations

import ctypes
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from fivefold_kernels import PackedMatrix
from fivefold_kernels.linear.packed import Blocks
from fivefold_kernels.linear.reference import GROUP
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .models import LanguageModel
from .offload.streamed import weights_here
from .packed import BlockLinear
from .store import made_once

BITS = range(2, 9)
COMPENSATED = 4
"""Up to so many bits, errors are made up for."""
_HEAD_BITS = 8  # of the output layer, as in GGUF files
_FILE, _REPORT = "blocks.safetensors", "report.json"
_VERSION = 1
_DAMPING = 0.01  # of the mean of the diagonal, as in the paper
_EXACT = 1e-6


@dataclass(frozen=True)
class LowerBitsReport:
    """What a copy is like.

    Args:
        bits: of a number.
        nbytes: of the copy's matrices, scales included.
        weight_error: length of all differences over the length of all weights.
        agreement: share of places of texts where the copy's best token is the model's.
    """

    bits: int
    nbytes: int
    weight_error: float
    agreement: float

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.bits} bits, {self.nbytes / 2**20:.0f} MiB, weight error "
            f"{self.weight_error:.1%}, greedy agreement {self.agreement:.1%}"
        )


def lower_bits_copy(
    model: LanguageModel,
    bits: int,
    library: ctypes.CDLL,
    texts: Callable[[], Sequence[list[int]]],
    say: Callable[[str], None],
) -> tuple[PreTrainedModel, LowerBitsReport]:
    """Return a copy of a model in fewer bits, made on first use and kept in the cache.

    Args:
        model: what is copied, on the CPU.
        bits: of a number, from 2 to 8.
        library: a build of the CPU kernels.
        texts: makes what the copy is fitted to and judged on: all but the last quarter, and that.
        say: told what takes time.

    Raises:
        UserError: the copy would be the model itself, as its weights lie on this grid already.
    """

    def make(folder: Path) -> None:
        say(f"copying {model.name} in {bits} bits (once)")
        with torch.no_grad():
            _write(model, bits, library, texts(), folder)

    name = f"{Path(model.name).name or 'model'}-{model.fingerprint}-{bits}bits-{_VERSION}"
    folder = made_once(name, make)
    try:
        return _opened(model, folder, library)
    except (OSError, ValueError, TypeError, SafetensorError):
        say(f"the copy in {folder} is damaged and made anew")
        shutil.rmtree(folder)
        return _opened(model, made_once(name, make), library)


def _opened(
    model: LanguageModel, folder: Path, library: ctypes.CDLL
) -> tuple[PreTrainedModel, LowerBitsReport]:
    report = LowerBitsReport(**json.loads((folder / _REPORT).read_text(encoding="utf-8")))
    return _assembled(model.module, _read(folder, model.module.dtype, library)), report


# -------------------------------------------------------------------------------------- the blocks


def rounded(
    weight: Float[Tensor, "out in"], bits: int, moments: Float[Tensor, "in in"] | None = None
) -> tuple[UInt8[Tensor, "out row_bytes"], str]:
    """Round a matrix to blocks of so many bits.

    Args:
        weight: float32; its inputs are a multiple of 32.
        bits: from 2 to 8.
        moments: sums of products of inputs, x^T x, of texts: errors are made up for.

    Returns:
        The blocks as a GGUF file holds them, and their kind.
    """
    kind = Blocks.Q4_1 if bits <= COMPENSATED else Blocks.Q8_0
    left, blocks = weight.clone(), []
    inverse = None if moments is None else _inverse_factor(moments)
    for first in range(0, weight.shape[1], GROUP):
        group = slice(first, first + GROUP)
        grid = _Grid.of(left[:, group], bits)
        numbers, errors = [], []
        for place in range(first, first + GROUP):
            number = grid.number(left[:, place])
            numbers.append(number)
            if inverse is not None:
                error = (left[:, place] - grid.value(number)) / inverse[place, place]
                left[:, place : first + GROUP] -= (
                    error[:, None] * inverse[place, place : first + GROUP]
                )
                errors.append(error)
        if inverse is not None:
            left[:, first + GROUP :] -= torch.stack(errors, 1) @ inverse[group, first + GROUP :]
        blocks.append(grid.block(torch.stack(numbers, 1)))
    return torch.cat(blocks, 1), kind


@dataclass(frozen=True)
class _Grid:
    """The values that a group of 32 inputs of every output may take: minimum + step * number."""

    bits: int
    step: Float[Tensor, " out"]
    minimum: Float[Tensor, " out"]

    @classmethod
    def of(cls, group: Float[Tensor, "out group"], bits: int) -> _Grid:
        if bits <= COMPENSATED:
            low = group.amin(1).half().float()
            step = ((group.amax(1) - low) / (2**bits - 1)).half().float()
            return cls(bits, step, low)
        step = (group.abs().amax(1) / (2 ** (bits - 1) - 1)).half().float()
        return cls(bits, step, torch.zeros_like(step))

    def number(self, column: Float[Tensor, " out"]) -> Int[Tensor, " out"]:
        inverse = torch.where(self.step > 0, 1 / self.step, 0)
        numbers = ((column - self.minimum) * inverse).round()
        if self.bits <= COMPENSATED:
            return numbers.clamp(0, 2**self.bits - 1).int()
        most = 2 ** (self.bits - 1) - 1
        return numbers.clamp(-most, most).int()

    def value(self, number: Int[Tensor, " out"]) -> Float[Tensor, " out"]:
        return self.minimum + self.step * number

    def block(self, numbers: Int[Tensor, "out group"]) -> UInt8[Tensor, "out block_bytes"]:
        """Lay numbers out as a GGUF file does: scale, minimum, then halves of bytes or bytes."""
        step = self.step.half()[:, None].view(torch.uint8)
        if self.bits > COMPENSATED:
            return torch.cat([step, numbers.to(torch.int8).view(torch.uint8)], 1)
        low, high = numbers[:, : GROUP // 2], numbers[:, GROUP // 2 :]
        halves = (low | high << 4).to(torch.uint8)
        return torch.cat([step, self.minimum.half()[:, None].view(torch.uint8), halves], 1)


def _inverse_factor(moments: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """Return the upper Cholesky factor of the damped inverse (GPTQ, section 3.3)."""
    matrix = moments.double()
    damping = float(_DAMPING * matrix.diagonal().mean()) or 1.0
    matrix.diagonal().add_(damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


# ---------------------------------------------------------------------------------------- the copy


def _write(
    model: LanguageModel,
    bits: int,
    library: ctypes.CDLL,
    texts: Sequence[list[int]],
    folder: Path,
) -> None:
    """Write the blocks of every matrix, and what the copy is like."""
    _require_a_difference(model, bits, library)
    cut = max(len(texts) * 3 // 4, 1)
    blocks: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    difference = length = 0.0
    for name, layer, moments in _layers(model.module, texts[:cut] if bits <= COMPENSATED else ()):
        is_head = layer is model.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        weight = layer.weight.detach().float()
        data, kind = rounded(weight, _HEAD_BITS if is_head else bits, moments)
        blocks[name], kinds[name] = data, kind
        if not is_head:
            held = PackedMatrix.of_blocks(data, kind, library).rows(torch.arange(len(weight)))
            difference += float((held - weight).square().sum())
            length += float(weight.square().sum())
    error = math.sqrt(difference / max(length, 1e-30))
    save_file(blocks, folder / _FILE, metadata=kinds)
    copy = _assembled(model.module, _read(folder, model.module.dtype, library))
    agreement = _agreement(model.module, copy, texts[cut:] or texts)
    nbytes = sum(data.nbytes for data in blocks.values())
    report = LowerBitsReport(bits, nbytes, error, agreement)
    (folder / _REPORT).write_text(json.dumps(asdict(report)) + "\n", encoding="utf-8")


def _require_a_difference(model: LanguageModel, bits: int, library: ctypes.CDLL) -> None:
    """Refuse a copy that would be the model: it would prove nothing.

    Raises:
        UserError: every matrix lies on the grid of so many bits already.
    """
    for _, layer, _ in _layers(model.module, ()):
        weight = layer.weight.detach().float()
        held = PackedMatrix.of_blocks(*rounded(weight, bits), library)
        numbers = held.rows(torch.arange(len(weight)))
        is_head = layer is model.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        if not is_head and float((numbers - weight).norm()) > _EXACT * float(weight.norm()):
            return
    raise UserError(
        f"a copy of {model.name} in {bits} bits is {model.name} itself: its weights lie on such a "
        "grid already",
        setting="drafting.bits",
        value=bits,
        remedy="set drafting.bits=5, or one below 4",
    )


def _layers(
    module: PreTrainedModel, texts: Sequence[list[int]]
) -> Iterator[tuple[str, nn.Linear, Tensor | None]]:
    """Go through the matrices that can be rounded, with the moments of their inputs.

    One pass over the texts for each decoder layer keeps the moments of that layer alone.
    """
    linears = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.in_features % GROUP == 0
    }
    groups: dict[str, list[str]] = {}
    for name in linears:
        numbers = [place for place, word in enumerate(name.split(".")) if word.isdigit()]
        prefix = ".".join(name.split(".")[: numbers[0] + 1]) if numbers else ""
        groups.setdefault(prefix, []).append(name)
    for prefix, names in groups.items():
        moments: dict[str, Tensor] = {}
        if texts and prefix:
            with _watched({name: linears[name] for name in names}, moments):
                for text in texts:
                    ids = torch.tensor([text], device=module.device)
                    module(input_ids=ids, use_cache=False)
        with weights_here(module, linears[names[0]]):  # its layer may be streamed
            for name in names:
                yield name, linears[name], moments.get(name)


@contextmanager
def _watched(layers: dict[str, nn.Linear], moments: dict[str, Tensor]) -> Iterator[None]:
    """Add up x^T x of the inputs of layers meanwhile."""

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1]).float()
            moments[name] = moments.get(name, 0) + rows.T @ rows

        return hook

    handles = [part.register_forward_pre_hook(watch(name)) for name, part in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read(folder: Path, dtype: torch.dtype, library: ctypes.CDLL) -> dict[str, BlockLinear]:
    with safe_open(folder / _FILE, framework="pt") as file:
        kinds = file.metadata()
        return {
            name: BlockLinear(PackedMatrix.of_blocks(file.get_tensor(name), kind, library), dtype)
            for name, kind in kinds.items()
        }


def _assembled(module: PreTrainedModel, layers: dict[str, BlockLinear]) -> PreTrainedModel:
    """Build a model of these layers; everything else is the other model's own."""
    with torch.device("meta"):
        copy = type(module)(module.config)
    for name, part in module.named_modules():
        if name in layers:
            layer = layers[name]
            if isinstance(part, nn.Linear) and part.bias is not None:
                matrix = layer.matrix.with_bias(part.bias)
                layer = BlockLinear(matrix, layer.dtype)
            copy.set_submodule(name, layer)
        elif not any(part.children()):
            copy.set_submodule(name, part)
    copy.train(False)
    return copy.requires_grad_(False)


def _agreement(module: PreTrainedModel, copy: PreTrainedModel, texts: Sequence[list[int]]) -> float:
    """Return the share of places where both find the same token best."""
    same = total = 0
    for text in texts:
        ids = torch.tensor([text], device=module.device)
        best = [m(input_ids=ids, use_cache=False).logits.argmax(-1) for m in (module, copy)]
        same, total = same + int((best[0] == best[1]).sum()), total + len(text)
    return same / max(total, 1)
