"""From settings to a model whose layers are streamed; its weights are never all in memory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from fivefold import UserError
from fivefold_kernels import PackedMatrix
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from ..config import ModelConfig
from ..kernels import Kernels
from ..layout import decoder_config
from ..packed import NativeProduct
from .budget import BUFFERS, free_bytes, reserved_bytes, resident_layers
from .host_layers import HostLayers, pinned
from .layer_files import LayerFiles, written_once
from .reader import FAMILIES, WeightReader, weight_bytes
from .ring import Layers, LayerStreamer, evenly
from .sizes import in_units, parse_size
from .source import Checkpoint
from .storage import LayerLayout, Weights
from .streamed import About, Offload, prepare_layer

_PROBE = 96  # rows and columns of the matrix whose packed bytes name a layout
_BITS = {"int8": 9, "int4": 6, "file": 9}  # a weight on disk, scales included, rounded up
_MEGA = 1e6


@dataclass(frozen=True)
class _Placed:
    """Where the layers lie, and how they are laid out."""

    layers: Layers
    layouts: list[LayerLayout]
    n_resident: int
    reads: str
    fixed: int
    """Bytes of what stays besides layers."""


def require_device(config: ModelConfig, device: torch.device) -> None:
    """Refuse to stream to a device from where its weights lie anyway, or cannot be read to.

    Raises:
        UserError: `disk` with an accelerator, or `host` with the CPU.
    """
    is_cpu = device.type == "cpu"
    if config.offload == "disk" and not is_cpu:
        problem, remedy = "layers are streamed from disk to the CPU only", "host"
    elif config.offload == "host" and is_cpu:
        problem, remedy = "a model on the CPU lies in host memory anyway", "disk"
    else:
        return
    raise UserError(
        problem,
        setting="model.offload",
        value=config.offload,
        remedy=f"set model.offload={remedy}, or choose another model.device (it is {device})",
    )


def load_streamed(
    config: ModelConfig,
    folder: Path,
    device: torch.device,
    kernels: Kernels | None,
    say: Callable[[str], None],
) -> PreTrainedModel:
    """Build a model that keeps what its budget allows and streams the other layers.

    Args:
        config: the settings; `offload` is not `none`.
        folder: config and weights as safetensors, floats or the blocks of a GGUF file.
        device: where it computes.
        kernels: what computes; None: stock torch.
        say: told what takes time, and what was decided.

    Raises:
        UserError: an architecture whose layers are not streamed, damaged weights, too small a
            budget, or a full disk.
    """
    module = _without_weights(config, folder)
    checkpoint = Checkpoint(folder, config.name)
    is_blocks = config.weights == "file"
    reader = WeightReader(module, checkpoint, kernels, is_blocks, config.name)
    written = None
    if config.offload == "disk":
        written = LayerFiles(_written(config, reader, checkpoint, kernels, say), _rate(config))
        reader.marks |= _marks_from(written.about["marks"])
    try:
        reader.read_rest(device)
        placed = _placed(config, module, reader, kernels, written, device, say)
        for layer in reader.layers:
            prepare_layer(layer, kernels, reader.dtype)
        n_streamed = len(placed.layouts) - placed.n_resident
        streamer = LayerStreamer(placed.layers, placed.n_resident, min(BUFFERS, n_streamed), device)
    except BaseException:
        if written is not None:
            written.close()
        raise
    library = None if kernels is None else kernels.library
    held = [*streamer.resident.values(), *streamer.buffers]
    nbytes = placed.fixed + sum(part.nbytes for part in held)
    about = About(config.offload, placed.reads, nbytes, _rate(config))
    offload = Offload(
        module,
        reader.layers,
        streamer,
        lambda layer, storage: placed.layouts[layer].views(storage, library),
        reader.all_marks(),
        about,
    )
    if kernels is not None:
        offload.speed_up(module, kernels)
    say(_said(offload))
    return module


def _without_weights(config: ModelConfig, folder: Path) -> PreTrainedModel:
    """Build the module with parameters on the meta device and buffers as they are."""
    settings = AutoConfig.from_pretrained(folder)
    unfit = settings.model_type not in FAMILIES
    if unfit or getattr(settings, "quantization_config", None):
        what = settings.model_type if unfit else "weights quantised by another library"
        raise UserError(
            f"layers of {what} are not streamed; those of {', '.join(FAMILIES)} are",
            setting="model.offload",
            value=config.offload,
            remedy="choose another model, or set model.offload=none",
        )
    auto: Any = AutoModelForCausalLM
    with init_empty_weights(include_buffers=False):
        module: PreTrainedModel = auto.from_config(settings, dtype=getattr(torch, config.dtype))
    if settings.tie_word_embeddings:
        head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
        embedding: Any = module.get_input_embeddings()
        head.weight = embedding.weight
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder)
    module.train(False)
    return module.requires_grad_(False)


def _written(
    config: ModelConfig,
    reader: WeightReader,
    checkpoint: Checkpoint,
    kernels: Kernels | None,
    say: Callable[[str], None],
) -> Path:
    """Return the folder of layers on disk, written at first use."""
    count = len(reader.layers)

    def layers() -> Iterator[Weights]:
        say(f"writing the {count} layers of {Path(config.name).name} for streaming (once)")
        for layer in range(count):
            yield reader.layer(layer)

    planned = (LayerLayout.of(reader.planned(layer)).nbytes for layer in range(count))
    need = sum(planned) * _BITS.get(config.weights, 8 * reader.dtype.itemsize)
    return written_once(
        _name(config, checkpoint, kernels),
        layers,
        need // (8 * reader.dtype.itemsize),
        lambda: {"marks": _marks_to(reader.marks)},
    )


def _placed(
    config: ModelConfig,
    module: PreTrainedModel,
    reader: WeightReader,
    kernels: Kernels | None,
    written: LayerFiles | None,
    device: torch.device,
    say: Callable[[str], None],
) -> _Placed:
    """Decide which layers stay, and bring the others to where they are streamed from."""
    count = len(reader.layers)
    if written is not None:
        sizes = written.sizes
    else:
        sizes = [LayerLayout.of(reader.planned(layer)).nbytes for layer in range(count)]
    fixed = weight_bytes(module)
    if config.memory:
        budget = parse_size(config.memory)
    else:
        free = free_bytes(device)
        budget = fixed + free - reserved_bytes(decoder_config(module), reader.dtype, free)
    copies = 2 if kernels is not None and kernels.library is None else 1
    n_resident = resident_layers(sizes, fixed, budget, copies, config.memory)
    if written is not None:
        return _Placed(written, written.layouts, n_resident, written.reads, fixed)
    kept = evenly(count, count - n_resident)
    say(f"{in_units(sum(sizes[layer] for layer in kept))} of host memory are needed for layers")
    host = HostLayers(reader.planned, reader.layer, count, kept, pinned, say)
    return _Placed(host, host.layouts, n_resident, host.reads, fixed)


def _name(config: ModelConfig, checkpoint: Checkpoint, kernels: Kernels | None) -> str:
    """Name the layers of a model by all that their bytes depend on."""
    digest = hashlib.sha256(f"{checkpoint.key()} {config.dtype} {config.weights}".encode())
    name = "torch"
    if kernels is not None and kernels.library is not None:
        name = kernels.name
        numbers = torch.linspace(-1, 1, _PROBE * _PROBE).view(_PROBE, _PROBE)
        assert kernels.pack is not None
        product = kernels.pack(numbers, None)
        assert isinstance(product, NativeProduct)
        digest.update(_bytes_of(product.matrix))
    stem = Path(config.name).stem
    return f"{stem}-{config.dtype}-{name}-{digest.hexdigest()[:12]}"


def _bytes_of(matrix: PackedMatrix) -> bytes:
    parts: tuple[Tensor, ...] = (matrix.data, matrix.scales)
    return b"".join(part.numpy().tobytes() for part in parts)


def _rate(config: ModelConfig) -> float:
    return config.disk_rate * _MEGA


def _marks_to(marks: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(mark).decode() for name, mark in marks.items()}


def _marks_from(said: dict[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(mark) for name, mark in said.items()}


def _said(offload: Offload) -> str:
    streamer = offload.streamer
    streamed, about = len(streamer.streamed), offload.about
    if not streamed:
        return (
            f"all {streamer.count} layers fit ({in_units(about.weight_bytes)}): none is streamed; "
            "a smaller model.memory changes that"
        )
    how = {
        "direct": "past the page cache",
        "dropped": "dropped from the page cache each time",
        "cached": "through the page cache, which this system does not let us drop",
    }.get(about.reads, f"{about.reads} memory")
    return (
        f"{streamed} of {streamer.count} layers are streamed from {about.where} ({how}), "
        f"{in_units(offload.bytes_per_pass)} a pass; weights take "
        f"{in_units(about.weight_bytes)} here"
    )
